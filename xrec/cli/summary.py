"""What a finished job prints: where its artifact is, and its counts and metrics in a line each."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xrec.storage import Manifest


def summary(manifest: "Manifest", uri: str) -> str:
    """The artifact's URI, row counts and scalar metrics; curves and tables stay in its manifest."""
    lines = [f"{manifest.kind}: {uri}"]
    if manifest.row_counts:
        lines.append("  rows: " + ", ".join(f"{name} {count:,}" for name, count in manifest.row_counts.items()))
    metrics = [f"{name} {_short(value)}" for name, value in scalars(manifest.metrics)]
    if metrics:
        lines.append("  metrics: " + ", ".join(metrics))
    return "\n".join(lines)


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of nested metrics, as (dotted name, value); lists are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
