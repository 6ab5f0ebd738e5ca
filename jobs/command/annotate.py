"""`xrec annotate`: the job, with switches for keys that are given now and then."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command.arguments import ConfigPath, Debug, Overrides, keys_option
from jobs.command.bulk_job import (
    Alongside,
    BulkDryRun,
    limit_option,
    limit_reached,
    show_outlook,
    switched_keys,
)
from jobs.command.catalogue import ANNOTATE
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.summary import summary

if TYPE_CHECKING:
    from xrec.config.annotate import AnnotateConfig


def annotate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    limit: Annotated[int | None, limit_option("texts")] = None,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="all|REASON,...",
            help="Write failed texts again: retry_failed=[...].",
        ),
    ] = None,
    alongside: Alongside = False,
    dry_run: BulkDryRun = False,
    keys: Annotated[bool, keys_option("annotate")] = False,
    debug: Debug = False,
) -> None:
    """Run jobs.annotate."""
    configure_logging(debug)
    with exit_codes(debug):
        switches = switched_keys(limit, retry_failed, alongside)
        config = ANNOTATE.load_config(config_path, [*(overrides or []), *switches])
        _run(config, dry_run)  # type: ignore[arg-type]


def _run(config: "AnnotateConfig", dry_run: bool) -> None:
    from xrec.errors import DataError, StorageError

    if dry_run:
        look_ahead = ANNOTATE.module().look_ahead
        show_outlook(config, lambda: look_ahead(config), (DataError, StorageError))
        return
    manifest = ANNOTATE.module().run(config)
    if manifest is None:
        typer.echo(limit_reached(config.limit, "texts"))
        return
    typer.echo(summary(manifest, config.artifact("annotations")))
