"""A command for each job: CONFIG, overrides, --dry-run, --debug."""

from collections.abc import Callable

import typer

from xrec.cli.arguments import ConfigPath, Debug, DryRun, Overrides
from xrec.cli.backfill_command import BackfillCommand, backfill
from xrec.cli.exit_codes import exit_codes
from xrec.cli.job import BACKFILL, SERVE, Job
from xrec.cli.logging import configure_logging
from xrec.cli.serve_command import serve
from xrec.cli.summary import summary


def add_job_command(app: typer.Typer, job: Job) -> None:
    """Add `job` to `app` as a command of its name."""
    if job is BACKFILL:
        app.command(job.name, cls=BackfillCommand, help=job.help)(backfill)
    elif job is SERVE:
        app.command(job.name, help=job.help)(serve)
    else:
        app.command(job.name, help=job.help)(_command(job))


def _command(job: Job) -> Callable[..., None]:
    def command(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        debug: Debug = False,
    ) -> None:
        configure_logging(debug)
        with exit_codes(debug):
            config = job.load_config(config_path, overrides or [])
            if dry_run:
                from xrec.config.base import resolved_yaml

                typer.echo(resolved_yaml(config), nl=False)
                return
            manifest = job.run(config)
            typer.echo(summary(manifest, config.artifact(manifest.kind)))

    return command
