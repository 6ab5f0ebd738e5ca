"""A command for each job: CONFIG in, one library call, exit code out."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.catalogue import COMPARE, SERVE, Job
from xrec.cli.arguments import ConfigPath, DryRun, Overrides, keys_option
from xrec.cli.compare_command import compare
from xrec.cli.reporting import reporting
from xrec.cli.serve_command import serve
from xrec.cli.summary import show_config, summary

if TYPE_CHECKING:
    from xrec.config.shared import JobConfig


def add_job_command(app: typer.Typer, job: Job) -> None:
    """Add `job` to `app` as a command of its name."""
    own: dict[Job, Callable[..., None]] = {COMPARE: compare, SERVE: serve}
    app.command(job.name, help=job.help)(own.get(job) or _job_command(job))


def _job_command(job: Job) -> Callable[..., None]:
    @reporting
    def run(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        keys: Annotated[bool, keys_option(job.name)] = False,
    ) -> None:
        config = job.load_config(config_path, overrides or [])
        if dry_run:
            show_config(config)
            for line in _outlook(job, config):
                typer.echo(f"# {line}")
        elif (manifest := job.run(config)) is not None:
            typer.echo(summary(manifest, config.artifact(manifest.kind)))
        else:
            typer.echo(
                f"the limit of {getattr(config, 'limit', 0):,} rows is reached, in whole "
                "chunks; the same command without a limit goes on"
            )
            for line in _outlook(job, config):
                typer.echo(line)

    return run


def _outlook(job: Job, config: "JobConfig") -> Iterator[str]:
    """What the run of a bulk job would do and cost; its input may not be readable yet."""
    if not job.has_outlook:
        return
    from xrec.errors import ArtifactNotFoundError, DataError, StorageError

    try:
        yield from job.module().look_ahead(config)
    except (ArtifactNotFoundError, DataError, StorageError) as error:
        yield f"what the run would do cannot be said yet: {str(error).splitlines()[0]}"
