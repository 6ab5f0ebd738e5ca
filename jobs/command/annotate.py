"""`xrec annotate`: the job, with switches for keys that are given now and then."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command.arguments import ConfigPath, Debug, DryRun, Overrides, keys_option
from jobs.command.catalogue import ANNOTATE
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from jobs.command.summary import show_config, summary

if TYPE_CHECKING:
    from xrec.config.annotate import AnnotateConfig


def annotate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", help="End after the first N texts, unfinished: limit=N."
        ),
    ] = None,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="all|REASON,...",
            help="Write failed texts again: retry_failed=[...].",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Begin though another driver seems alive: take_over=true"),
    ] = False,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option("annotate")] = False,
    debug: Debug = False,
) -> None:
    """Run jobs.annotate."""
    configure_logging(debug)
    with exit_codes(debug):
        switches = [
            *([f"limit={limit}"] if limit is not None else []),
            *([f"retry_failed=[{retry_failed}]"] if retry_failed else []),
            *(["take_over=true"] if take_over else []),
        ]
        config = ANNOTATE.load_config(config_path, [*(overrides or []), *switches])
        _run(config, dry_run)  # type: ignore[arg-type]


def _look_ahead(config: "AnnotateConfig") -> list[str]:
    """What the run would do; if the reviews cannot be read yet, that is said, and is no error."""
    from xrec.errors import DataError, StorageError

    try:
        lines: list[str] = ANNOTATE.module().look_ahead(config)
        return lines
    except (DataError, StorageError) as error:
        return [f"what the run would do cannot be said yet: {str(error).splitlines()[0]}"]


def _run(config: "AnnotateConfig", dry_run: bool) -> None:
    if dry_run:
        show_config(config)
        for line in _look_ahead(config):
            typer.echo(f"# {line}")
        return
    manifest = ANNOTATE.module().run(config)
    if manifest is None:
        typer.echo(
            f"the limit of {config.limit:,} texts is reached, in whole chunks; the run is not "
            "finished, and the same command without a limit goes on"
        )
        return
    typer.echo(summary(manifest, config.artifact("annotations")))
