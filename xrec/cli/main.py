"""`xrec`, the command-line program: all commands in their sections."""

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, NoReturn

import typer

from xrec.cli.doctor_command import doctor
from xrec.cli.init_command import init
from xrec.cli.job_command import job_command, serve
from xrec.cli.lab_command import ratings, sheet
from xrec.cli.nights_command import list_, prune
from xrec.cli.reporting import add_command, new_app
from xrec.cli.run_command import demo, refresh, run, status
from xrec.cli.submit_command import submit
from xrec.cli.table_command import TABLE_COMMANDS, export
from xrec.cli.texts_command import audit, explain, forget, publish
from xrec.jobs import PIPELINE
from xrec.version import __version__

HELP = """Write the reason beside every recommendation.

\b
Each arrow is a command, each noun an artifact at a local path or an s3:// URI:
  reviews -annotate-> texts -prepare-> dataset -pretrain-graph-> graph
  dataset, graph -train-adapter-> adapter
  dataset, graph -neighbors-> neighbors
  graph, neighbors -recommend-> recommendations
  adapter, pairs -backfill-> explanations -evaluate-> report
"""
EPILOG = """\b
Exit codes:
  0 done   1 failed   2 bad usage or config   3 not published   4 over budget

\b
Examples:
  xrec demo
  xrec init shop --from reviews.csv && xrec run shop/xrec.yaml
  xrec backfill --help
"""

app = new_app(add_completion=True)
lab = new_app()
table = new_app()
nights = new_app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(help=HELP, epilog=EPILOG)
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version."),
    ] = False,
) -> None:
    """Accept the options that come before a command."""


_SECTIONS: Mapping[str, tuple[Callable[..., None], ...]] = {
    "Start": (demo, init, doctor),
    "Run": (run, status, explain, *map(job_command, PIPELINE)),
    "Publish": (publish, serve, export),
    "Operate": (refresh, submit, audit, forget),
}
for section, commands in _SECTIONS.items():
    for command in commands:
        add_command(app, command, section, passes_on=command is submit)
for command in TABLE_COMMANDS:
    add_command(table, command)
for command in (list_, prune):
    add_command(nights, command)
for command in (job_command("compare"), sheet, ratings):
    add_command(lab, command)
_TABLE_HELP, _LAB_HELP = "Inspect and repair a published table.", "Compare the method with others."
app.add_typer(
    nights,
    name="nights",
    help="List and delete a project's nights.",
    rich_help_panel="Operate",
)
app.add_typer(table, name="table", help=_TABLE_HELP, rich_help_panel="Operate")
app.add_typer(lab, name="lab", help=_LAB_HELP, rich_help_panel="Research")


def main(*command: str) -> NoReturn:
    """Run the program with `command`, followed by the process's arguments."""
    app([*command, *sys.argv[1:]], prog_name="xrec")
    raise SystemExit(0)
