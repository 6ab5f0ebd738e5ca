"""A command for each job, and explain: CONFIG in, one library call, exit code out."""

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

from xrec.cli.printing import show_config, summary
from xrec.cli.reporting import AsJson, ConfigPath, DryRun, Overrides, keys_option
from xrec.errors import ArtifactNotFoundError, DataError, StorageError
from xrec.jobs.catalogue import SERVE, Job

if TYPE_CHECKING:
    from xrec.config import JobConfig, ServeConfig

_SERVING = "serving at {0} (the page; API: {0}/openapi.json; Ctrl-C ends it)"
# Ray reads these when it is imported: lines of replicas appear here as they were written.
_PLAIN_LINES = {"RAY_DISABLE_WORKER_LOG_PREFIX": "1", "RAY_DEDUP_LOGS": "0"}


def add_job_command(app: typer.Typer, job: Job) -> None:
    """Add `job` to `app` as a command of its name."""
    app.command(job.name, help=job.help)(_serve if job is SERVE else _job_command(job))


def _job_command(job: Job) -> Callable[..., None]:
    def run(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        keys: Annotated[bool, keys_option(job.name)] = False,
    ) -> None:
        from xrec.storage import present

        config = job.load_config(config_path, overrides or [])
        if dry_run:
            show_config(config)
            for line in _outlook(job, config):
                typer.echo(f"# {line}")
        elif (manifest := job.run(config := present(config))) is not None:
            typer.echo(summary(manifest, config.artifact(manifest.kind), as_json=as_json))
        elif as_json:
            typer.echo(json.dumps({"artifact": job.artifact, "state": "limit reached"}))
        else:
            told = f"the limit of {getattr(config, 'limit', 0):,} rows is reached; "
            told += "run the same command without a limit for the others"
            typer.echo("\n".join([told, *_outlook(job, config)]))

    return run


def _outlook(job: Job, config: "JobConfig") -> Iterator[str]:
    """What the run of a bulk job would do and cost; its input may not be readable yet."""
    from xrec.storage import present

    if not job.has_outlook:
        return
    try:
        yield from job.module().look_ahead(present(config))
    except (ArtifactNotFoundError, DataError, StorageError) as error:
        yield f"what the run would do cannot be said yet: {str(error).splitlines()[0]}"


def _serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    write_deployment: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            metavar="FILE", encoding="utf-8", help="Write the config for serve deploy, and stop."
        ),
    ] = None,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option(SERVE.name)] = False,
) -> None:
    def load() -> "ServeConfig":
        return cast("ServeConfig", SERVE.load_config(config_path, overrides or []))

    if dry_run:
        show_config(load())
    elif write_deployment is not None:
        from xrec.serve.app import deployment_yaml

        write_deployment.write(deployment_yaml(load()))
        typer.echo(f"{write_deployment.name}: serve deploy {write_deployment.name}")
    else:
        os.environ.update(_PLAIN_LINES)
        SERVE.module().run(load(), load, lambda at: typer.echo(_SERVING.format(at)))
