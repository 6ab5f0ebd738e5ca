"""`xrec backfill`: the job, with switches for keys that are given now and then."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.command.arguments import ConfigPath, Debug, Overrides, keys_option
from jobs.command.bulk_output import BulkJobCommand
from jobs.command.catalogue import BACKFILL
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.summary import show_config, summary

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
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Start beside what is there: new_run=true.")
    ] = False,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="[=REASON,...]",
            help="Do failed rows again, all or of some reasons: retry_failed=all.",
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="Make few large files of the run's many: upkeep.compact=true."
        ),
    ] = False,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="Delete files that no version needs: upkeep.vacuum=true."),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", help="End after the first N pairs, unfinished: limit=N."
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Begin though another driver seems alive: take_over=true"),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the resolved config as YAML, and as comments what the run would do and "
            "cost; nothing is written.",
        ),
    ] = False,
    keys: Annotated[bool, keys_option("backfill")] = False,
    debug: Debug = False,
) -> None:
    """Run jobs.backfill."""
    configure_logging(debug)
    with exit_codes(debug):
        switches = [
            *(["new_run=true"] if new_run else []),
            *([f"retry_failed=[{retry_failed}]"] if retry_failed else []),
            *(["upkeep.compact=true"] if compact else []),
            *(["upkeep.vacuum=true"] if vacuum else []),
            *([f"limit={limit}"] if limit is not None else []),
            *(["take_over=true"] if take_over else []),
        ]
        config = BACKFILL.load_config(config_path, [*(overrides or []), *switches])
        _run(config, dry_run)  # type: ignore[arg-type]


def _run(config: "BackfillConfig", dry_run: bool) -> None:
    if dry_run:
        show_config(config)
        for line in _outlook(config):
            typer.echo(f"# {line}")
        return
    manifest = BACKFILL.module().run(config)
    if manifest is None:
        typer.echo(
            f"the limit of {config.limit:,} pairs is reached, in whole chunks; the run is not "
            "finished, and the same command without a limit goes on"
        )
        for line in _look_ahead(config):
            typer.echo(line)
        return
    from xrec.backfill.identity import output_uri

    typer.echo(summary(manifest, output_uri(config, manifest.run)))


def _outlook(config: "BackfillConfig") -> list[str]:
    """What the run would do; if its inputs cannot be read yet, that is said, and is no error."""
    from xrec.errors import ArtifactNotFoundError, StorageError

    try:
        return _look_ahead(config)
    except (ArtifactNotFoundError, StorageError) as error:
        return [f"what the run would do cannot be said yet: {str(error).splitlines()[0]}"]


def _look_ahead(config: "BackfillConfig") -> list[str]:
    from jobs.command.bulk_text import preview_lines
    from xrec.backfill.run import retry_reasons

    return preview_lines(
        BACKFILL.module().look_ahead(config),
        "pairs",
        num_actors=config.actors.num_actors,
        price_per_actor_hour=config.price_per_actor_hour,
        retry=retry_reasons(config),
    )
