"""`xrec serve`: the online endpoint, until Ctrl-C."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from jobs.catalogue import SERVE
from xrec.cli.arguments import ConfigPath, DryRun, Overrides, keys_option
from xrec.cli.reporting import reporting
from xrec.cli.summary import show_config
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from xrec.config.serve import ServeConfig


@reporting
def serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    write_deployment: Annotated[
        str | None,
        typer.Option(
            "--write-deployment",
            metavar="FILE",
            help="Write the Serve config for serve deploy or a RayService, and stop.",
        ),
    ] = None,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option("serve")] = False,
) -> None:
    """Run jobs.serve."""
    config = _load(config_path, overrides or [])
    if dry_run:
        show_config(config)
    elif write_deployment is not None:
        _write_deployment(config, write_deployment)
    else:
        SERVE.module().run(config, lambda: _load(config_path, overrides or []), _tell)


def _write_deployment(config: "ServeConfig", path: str) -> None:
    """Write the Serve config; raises ConfigError if the file cannot be written."""
    from xrec.serve.app import deployment_yaml

    text = deployment_yaml(config)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--write-deployment {path}: cannot be written ({error.strerror}); expected a file in "
            "a folder that is there"
        ) from error
    typer.echo(f"{path}: serve deploy {path}")


def _load(config_path: str, overrides: Sequence[str]) -> "ServeConfig":
    return cast("ServeConfig", SERVE.load_config(config_path, overrides))


def _tell(address: str) -> None:
    typer.echo(f"serving at {address}   (page: {address}/   API: {address}/docs   Ctrl-C ends it)")
