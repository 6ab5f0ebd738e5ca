"""What a job prints when it is finished, and what it prints instead of running, by --dry-run."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from xrec.config.base import Config
    from xrec.storage import Manifest


def summary(manifest: "Manifest", uri: str) -> str:
    """The artifact's URI, row counts and scalar metrics; curves and tables stay in its manifest."""
    lines = [f"{manifest.kind}: {uri}"]
    if manifest.row_counts:
        lines.append(
            "  rows: "
            + ", ".join(f"{name} {count:,}" for name, count in manifest.row_counts.items())
        )
    return "\n".join([*lines, *_metric_lines(dict(scalars(manifest.metrics)))])


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """A line each; the ends of an interval, NAME_low and NAME_high, stand behind their metric."""
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        if any(
            name.endswith(end) and name.removesuffix(end) in metrics for end in ("_low", "_high")
        ):
            continue
        interval = (
            f"  ({_short(metrics[f'{name}_low'])} to {_short(metrics[f'{name}_high'])})"
            if f"{name}_low" in metrics
            else ""
        )
        yield f"  {name:<{width}}  {_short(value)}{interval}"


def show_config(config: "Config") -> None:
    """Print the resolved config, as `--dry-run` does."""
    from xrec.config.base import resolved_yaml

    typer.echo(resolved_yaml(config), nl=False)


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of nested metrics, as (dotted name, value); lists are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if type(value) is int
        else str(value)
    )
