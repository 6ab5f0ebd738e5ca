"""`xrec nights list` and `prune`: the folders of a project's nights."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.reporting import ConfigPath, Overrides

if TYPE_CHECKING:
    from xrec.config import BackfillConfig

Retention = Annotated[
    float | None,
    typer.Option(min=0, max=1e6, help="Hours; by default backfill.vacuum_hours, or 168."),
]


def list_(
    config_path: ConfigPath, overrides: Overrides = None, retention: Retention = None
) -> None:
    """List the nights of a project.

    A night is published, kept (a version that a rollback may restore was made from it), a candidate
    (unfinished, or stopped by its gate), or old.

    In:   CONFIG, with the section backfill
    Out:  a line per night, latest first: state, when it was last written to, size

    Examples:
      xrec nights list shop/xrec.yaml
      xrec nights list shop/xrec.yaml --retention 720
    """
    from xrec.cli.printing import text_table
    from xrec.nights import list_nights

    rows = [
        (
            str(night.number),
            night.state,
            night.written_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            f"{night.num_bytes / 2**20:,.1f} MiB",
        )
        for night in list_nights(*_config(config_path, overrides, retention))
    ]
    typer.echo(text_table(("night", "state", "written", "size"), rows))


def prune(
    config_path: ConfigPath, overrides: Overrides = None, retention: Retention = None
) -> None:
    """Delete nights that nothing needs any more.

    Deletes those that xrec nights list shows as old. xrec refresh does this after publishing.

    In:   CONFIG, with the section backfill
    Out:  the numbers of the deleted nights

    Examples:
      xrec nights prune shop/xrec.yaml
      xrec nights prune shop/xrec.yaml --retention 24
    """
    from xrec.nights import prune_nights

    pruned = prune_nights(*_config(config_path, overrides, retention))
    typer.echo(f"deleted nights: {', '.join(map(str, pruned)) or 'none'}")


def _config(
    path: str, overrides: list[str] | None, retention: float | None
) -> "tuple[BackfillConfig, timedelta]":
    from xrec.config import BackfillConfig, load_config

    config = load_config(BackfillConfig, path, overrides or [])
    hours = config.vacuum_hours if retention is None else retention
    return config, timedelta(hours=168 if hours is None else hours)
