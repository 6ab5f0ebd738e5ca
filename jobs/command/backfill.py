"""`xrec backfill`: the job, with switches for keys that are given now and then."""

from typing import TYPE_CHECKING, Annotated, Any

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
from jobs.command.bulk_output import BulkJobCommand
from jobs.command.catalogue import BACKFILL
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.summary import summary

if TYPE_CHECKING:
    from xrec.config.backfill import BackfillConfig


class BackfillCommand(BulkJobCommand):
    """Lets `--retry-failed` stand alone: Typer knows no option whose value may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare --retry-failed its value."""
        return super().parse_args(
            ctx, ["--retry-failed=all" if arg == "--retry-failed" else arg for arg in args]
        )


def backfill(
    config_path: ConfigPath,
    overrides: Overrides = None,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="[=REASON,...]",
            help="Do failed rows again, all or of some reasons: retry_failed=all.",
        ),
    ] = None,
    vacuum: Annotated[
        bool,
        typer.Option(
            "--vacuum",
            help="Afterwards delete files that no version of late needs: upkeep.vacuum=true.",
        ),
    ] = False,
    limit: Annotated[int | None, limit_option("pairs")] = None,
    alongside: Alongside = False,
    dry_run: BulkDryRun = False,
    keys: Annotated[bool, keys_option("backfill")] = False,
    debug: Debug = False,
) -> None:
    """Run jobs.backfill."""
    configure_logging(debug)
    with exit_codes(debug):
        switches = [
            *(["upkeep.vacuum=true"] if vacuum else []),
            *switched_keys(limit, retry_failed, alongside),
        ]
        config = BACKFILL.load_config(config_path, [*(overrides or []), *switches])
        _run(config, dry_run)  # type: ignore[arg-type]


def _run(config: "BackfillConfig", dry_run: bool) -> None:
    from xrec.errors import ArtifactNotFoundError, StorageError

    if dry_run:
        unreadable = (ArtifactNotFoundError, StorageError)
        show_outlook(config, lambda: _look_ahead(config), unreadable)
        return
    manifest = BACKFILL.module().run(config)
    if manifest is None:
        typer.echo(limit_reached(config.limit, "pairs"))
        for line in _look_ahead(config):
            typer.echo(line)
        return
    typer.echo(summary(manifest, config.artifact("explanations")))


def _look_ahead(config: "BackfillConfig") -> list[str]:
    from jobs.command.bulk_text import preview_lines
    from xrec.backfill.driver import retry_reasons

    return preview_lines(
        BACKFILL.module().look_ahead(config),
        "pairs",
        num_actors=config.actors.num_actors,
        price_per_actor_hour=config.price_per_actor_hour,
        retry=retry_reasons(config),
    )
