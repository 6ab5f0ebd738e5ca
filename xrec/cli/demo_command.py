"""`xrec demo`: a run of the sample's project, then what came out of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import xrec
from xrec.cli.reporting import reporting

if TYPE_CHECKING:
    from xrec.config.evaluate import EvaluateConfig

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

_NUM_EXAMPLES = 10


@reporting
def demo(
    workspace: Annotated[
        str,
        typer.Option(
            "--workspace", metavar="DIR", help="Folder or s3:// URI of the demo's artifacts."
        ),
    ] = "workspace/demo",
) -> None:
    """Run configs/sample.yaml in `workspace`, then print examples and metrics."""
    from jobs.pipeline import chosen_configs
    from xrec.config.project import read_project

    path = _project_file()
    configs = chosen_configs(read_project(path, [f"workspace={workspace}"]))
    from jobs.project_run import run

    run(configs, source=str(path), tell=lambda line: typer.echo(line, err=True))
    for line in _results(configs["evaluate"]):  # type: ignore[arg-type]
        typer.echo(line)


def _results(config: "EvaluateConfig") -> Iterator[str]:
    from xrec.data.splits import drawn_pairs
    from xrec.evaluate.descriptions import coverage_lines, example_lines, summary_lines
    from xrec.evaluate.evaluation import REPORT, read_coverage, read_evaluation
    from xrec.storage import location_of

    output = location_of(config, "evaluation")
    pairs, metrics = read_evaluation(output)
    drawn = drawn_pairs(pairs, _NUM_EXAMPLES, seed=config.seed)
    yield from ("", *example_lines(drawn, _NUM_EXAMPLES), "")
    yield from (*summary_lines(metrics), "", *coverage_lines(read_coverage(output)))
    yield f"report: {(output / REPORT).shared_uri}"


def _project_file() -> Path:
    path = Path(xrec.__file__).parents[1] / "configs" / "sample.yaml"
    if not path.is_file():
        from xrec.errors import ConfigError

        raise ConfigError(
            f"{path}: not there; the demo runs from a checkout of xrec (git clone, then make demo)"
        )
    return path
