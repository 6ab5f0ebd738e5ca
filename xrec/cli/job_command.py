"""A command per job: CONFIG in, one library call, exit code out."""

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrec.cli.printing import show_config, summary
from xrec.cli.reporting import AsJson, ConfigPath, DryRun, Overrides, keys_option
from xrec.errors import ArtifactNotFoundError, DataError, StorageError, first_line_of
from xrec.jobs import ARTIFACT_OF, help_of, job_named, run_job

if TYPE_CHECKING:
    from xrec.config import ServeConfig

_WITH_OUTLOOK = ("annotate", "backfill")  # their modules have `look_ahead`
_SERVING = "serving at {0} (the page; API: {0}/openapi.json; Ctrl-C ends it)"
# Ray reads these when it is imported. With them, it prints the replicas' lines unchanged.
_PLAIN_LINES = {"RAY_DISABLE_WORKER_LOG_PREFIX": "1", "RAY_DEDUP_LOGS": "0"}


def job_command(name: str) -> Callable[..., None]:
    """Return the command that runs a job."""

    def run(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        keys: Annotated[bool, keys_option(name)] = False,
    ) -> None:
        from xrec.backfill import present
        from xrec.config import CONFIG_TYPES, load_config

        config = load_config(CONFIG_TYPES[name], config_path, overrides or [])
        if dry_run:
            for line in _outlook(name, config):
                typer.echo(f"# {line}")
            show_config(config)
        elif (manifest := run_job(name, config := present(config))) is not None:
            typer.echo(summary(manifest, config.artifact(manifest.kind), as_json=as_json))
        elif as_json:
            typer.echo(json.dumps({"artifact": ARTIFACT_OF[name], "state": "limit reached"}))
        else:
            limit = getattr(config, "limit", 0)
            typer.echo(f"reached limit={limit:,}; run the command without it to do the rest")
            typer.echo("\n".join(_outlook(name, config)))

    run.__name__, run.__doc__ = name, help_of(name)
    return run


def _outlook(name: str, config: Any) -> Iterator[str]:
    """Yield what a bulk job would do and cost, if its input can be read."""
    from xrec.backfill import present

    if name not in _WITH_OUTLOOK:
        return
    try:
        yield from job_named(name).look_ahead(present(config))  # type: ignore[attr-defined]
    except (ArtifactNotFoundError, DataError, StorageError) as error:
        yield f"cannot tell yet what the run would do: {first_line_of(error)}"


def serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    write_deployment: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            metavar="FILE", encoding="utf-8", help="Write the config for serve deploy, and exit."
        ),
    ] = None,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option("serve")] = False,
) -> None:
    """Serve explanations over HTTP.

    Answers with stored explanations, and has the model write missing ones. Picks up what xrec
    refresh or a rollback publishes, without downtime. SIGHUP reloads the project file.

    In:   <workspace>/dataset, graph and adapter, llm.model; explanations if they exist
    Out:  http://127.0.0.1:8000, with a page at / and the API at /openapi.json

    Examples:
      xrec serve configs/yelp.yaml http.port=9000
      xrec serve configs/yelp.yaml --write-deployment serve.yaml
    """
    from xrec.config import ServeConfig, load_config

    def load() -> "ServeConfig":
        return load_config(ServeConfig, config_path, overrides or [])

    if dry_run:
        show_config(load())
    elif write_deployment is not None:
        from xrec.serve.app import deployment_yaml

        write_deployment.write(deployment_yaml(load()))
        typer.echo(f"{write_deployment.name}: serve deploy {write_deployment.name}")
    else:
        os.environ.update(_PLAIN_LINES)
        from xrec.jobs.serve import run

        run(load(), load, lambda url: typer.echo(_SERVING.format(url)))
