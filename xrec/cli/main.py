"""`xrec`, the one command-line program."""

import sys
from typing import Annotated, NoReturn

import typer

from xrec.cli import (
    doctor_command,
    init_command,
    run_command,
    submit_command,
    table_command,
    texts_command,
)
from xrec.cli.job_command import add_job_command
from xrec.cli.reporting import new_app
from xrec.jobs.catalogue import COMPARE, JOBS
from xrec.version import __version__

HELP = """For every recommendation, the reason why this user would like this item.

\b
Data goes one way. Each arrow is a command, each noun an artifact at a URI (local folder or s3://):
  reviews -annotate-> texts, aspects: what prepare takes, if you have no tables of your own
  raw files -prepare-> dataset -pretrain-graph-> graph -train-adapter-> adapter
            -backfill-> explanations -evaluate-> metrics and report.html
  graph -recommend-> each user's best unseen items, which a backfill can take as its pairs
  explanations, adapter -serve-> an HTTP endpoint with a page
  explanations -export-> plain Parquet or CSV files

A project is one YAML file, and xrec run goes through all of it. Start with xrec init.
Each command has its own --help. Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 done and
not published (the gate stopped it, or a person took it back), 4 a budget is used up.
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


app.command("run", help=run_command.HELP)(run_command.run)
app.command("demo", help=run_command.DEMO_HELP)(run_command.demo)
app.command("doctor", help=doctor_command.HELP)(doctor_command.doctor)
app.command("refresh", help=run_command.REFRESH_HELP)(run_command.refresh)
app.command("status", help=run_command.STATUS_HELP)(run_command.status)
_lab = new_app(no_args_is_help=True)
for _job in JOBS:
    add_job_command(_lab if _job is COMPARE else app, _job)


@_lab.callback()
def _commands_of_the_lab() -> None:
    """A group, though it has one command."""


app.add_typer(_lab, name="lab", help="What measures the method beside others: compare.")
app.command("explain", help=texts_command.HELP)(texts_command.explain)
app.command("audit", help=texts_command.AUDIT_HELP)(texts_command.audit)
app.command("forget", help=texts_command.FORGET_HELP)(texts_command.forget)
app.command("publish", help=texts_command.PUBLISH_HELP)(texts_command.publish)
app.command("export", help=table_command.EXPORT_HELP)(table_command.export)
app.command("init", help=init_command.HELP)(init_command.init)
app.command("submit", help=submit_command.HELP)(submit_command.submit)
app.add_typer(
    table_command.app,
    name="table",
    help="A bulk job's table: status, check, history, diff, rollback, empty, takedown.",
)


def main(*command: str) -> NoReturn:
    """Run `command`, or the one that the program's arguments name, with those arguments."""
    app([*command, *sys.argv[1:]], prog_name="xrec")
    raise SystemExit(0)
