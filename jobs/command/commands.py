"""A command for each job, CONFIG in and exit code out; `run_job` is the same for `python -m`."""

from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from jobs.command.annotate import annotate
from jobs.command.arguments import ConfigPath, Debug, DryRun, Overrides, keys_option
from jobs.command.backfill import BackfillCommand, backfill
from jobs.command.bulk_output import BulkJobCommand
from jobs.command.catalogue import ANNOTATE, BACKFILL, COMPARE, RECOMMEND, SERVE, Job, job_named
from jobs.command.compare import compare
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.run import HELP as RUN_HELP
from jobs.command.run import run
from jobs.command.serve import serve
from jobs.command.summary import show_config, summary


def new_app(*, no_args_is_help: bool = False) -> typer.Typer:
    """An empty program, without shell completion and coloured tracebacks."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=no_args_is_help,
    )


def add_job_command(app: typer.Typer, job: Job) -> None:
    """Add `job` to `app` as a command of its name."""
    if job is ANNOTATE:
        app.command(job.name, cls=BulkJobCommand, help=job.help)(annotate)
    elif job is BACKFILL:
        app.command(job.name, cls=BackfillCommand, help=job.help)(backfill)
    elif job is RECOMMEND:
        app.command(job.name, cls=BulkJobCommand, help=job.help)(_command(job))
    elif job is COMPARE:
        app.command(job.name, help=job.help)(compare)
    elif job is SERVE:
        app.command(job.name, help=job.help)(serve)
    else:
        app.command(job.name, help=job.help)(_command(job))


def run_job(name: str) -> NoReturn:
    """The program `python -m jobs.MODULE`: arguments, help and exit codes of `xrec JOB`."""
    job = job_named(name)
    app = new_app()
    add_job_command(app, job)
    app(prog_name=f"python -m jobs.{job.module_name}")
    raise SystemExit(0)


def run_pipeline() -> NoReturn:
    """The program `python -m jobs.run`: arguments, help and exit codes of `xrec run`."""
    app = new_app()
    app.command("run", help=RUN_HELP)(run)
    app(prog_name="python -m jobs.run")
    raise SystemExit(0)


def _command(job: Job) -> Callable[..., None]:
    def command(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        keys: Annotated[bool, keys_option(job.name)] = False,
        debug: Debug = False,
    ) -> None:
        configure_logging(debug)
        with exit_codes(debug):
            config = job.load_config(config_path, overrides or [])
            if dry_run:
                show_config(config)
                return
            manifest = job.run(config)
            typer.echo(summary(manifest, config.artifact(manifest.kind)))

    return command
