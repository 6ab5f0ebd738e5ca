"""`xrec`, the one command-line program."""

from typing import Annotated, NoReturn

import typer

from jobs.command.catalogue import JOBS
from jobs.command.commands import add_job_command, new_app
from jobs.command.run import HELP as RUN_HELP
from jobs.command.run import run
from xrec.cli import (
    cluster_command,
    demo_command,
    explain_command,
    export_command,
    init_command,
    jobs_command,
    status_command,
    submit_command,
)
from xrec.version import __version__

HELP = """For every recommendation, the reason why this user would like this item.

\b
Data goes one way. Each arrow is a command, each noun an artifact at a URI (local folder or s3://):
  reviews -annotate-> texts, aspects: what prepare takes, if you have no tables of your own
  raw files -prepare-> dataset -pretrain-graph-> graph -train-adapter-> adapter
            -backfill-> explanations -evaluate-> metrics and report.html
  graph -recommend-> each user's best unseen items, which a backfill can take as its pairs
  explanations, adapter -serve-> an HTTP endpoint with a page
  explanations -export-> plain Parquet, JSONL or CSV files

A project is one YAML file, and xrec run goes through all of it. Start with xrec demo, and with your
own data with xrec init. Each command has its own --help. Exit codes: 0 done, 1 failed, 2 bad usage
or config.
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


app = new_app()


@app.callback(help=HELP, no_args_is_help=True)
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """The options before any command."""


app.command("run", help=RUN_HELP)(run)
app.command("status", help=status_command.HELP)(status_command.status)
for _job in JOBS:
    add_job_command(app, _job)
app.command("explain", help=explain_command.HELP)(explain_command.explain)
app.command("export", help=export_command.HELP)(export_command.export)
app.command("init", help=init_command.HELP)(init_command.init)
app.command("demo", help=demo_command.HELP)(demo_command.demo)
app.command("submit", help=submit_command.HELP)(submit_command.submit)
app.add_typer(jobs_command.app, name="jobs", help="Jobs of a cluster: list, logs, stop.")
app.add_typer(
    cluster_command.app,
    name="cluster",
    help="A Ray cluster on this machine: up, down; the status of any.",
)


def main() -> NoReturn:
    """The entry point of `xrec`."""
    app(prog_name="xrec")
    raise SystemExit(0)
