"""`xrec demo`: the whole pipeline on the sample."""

from typing import Annotated

import typer

from jobs.command.arguments import Debug
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging

HELP = """The whole pipeline on the generated sample.

It is xrec run configs/sample.yaml, and takes about seven minutes on two cores.

\b
In:   nothing
Out:  ten explanations beside their references, the metrics, and where report.html is; all artifacts
      in --workspace

\b
Example:
  xrec demo
  xrec demo --workspace /tmp/xrec-demo
"""


def demo(
    workspace: Annotated[
        str,
        typer.Option(
            "--workspace", metavar="DIR", help="Folder or s3:// URI of the demo's artifacts."
        ),
    ] = "workspace/demo",
    debug: Debug = False,
) -> None:
    """Run xrec.cli.demo."""
    configure_logging(debug)
    with exit_codes(debug):
        from xrec.cli.demo import run_demo

        run_demo(workspace)
