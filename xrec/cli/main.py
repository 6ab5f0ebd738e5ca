"""`xrec`, the one command-line program; and `run_job`, the same for `python -m jobs.<job>`."""

from typing import Annotated, NoReturn

import typer

from xrec import __version__
from xrec.cli import (
    cluster_command,
    demo_command,
    explain_command,
    init_command,
    jobs_command,
    submit_command,
)
from xrec.cli.job import JOBS, job_named
from xrec.cli.job_commands import add_job_command

HELP = """For every recommendation, the reason why this user would like this item.

\b
Data goes one way, each arrow is a command, each noun an artifact at a URI (local folder or s3://):
  raw files -prepare-> dataset -pretrain-graph-> graph -train-adapter-> adapter
            -backfill-> explanations -evaluate-> metrics and report.html
  graph -recommend-> each user's best unseen items, which a backfill can take as its pairs
  explanations, adapter -serve-> an HTTP endpoint with a page

Start with: xrec demo. Each command has its own --help. Exit codes: 0 done, 1 failed, 2 bad usage or config.
"""


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


app = _app()


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


for _job in JOBS:
    add_job_command(app, _job)
app.command("explain", help=explain_command.HELP)(explain_command.explain)
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


def run_job(name: str) -> NoReturn:
    """The entry point of `python -m jobs.<job>`: the same arguments, help and exit codes as `xrec <job>`."""
    job = job_named(name)
    single = _app()
    add_job_command(single, job)
    single(prog_name=f"python -m jobs.{job.module}")
    raise SystemExit(0)
