"""Format what commands print: tables, manifests, configs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from xrec.config import Config
    from xrec.storage import Manifest


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the header and the rows as lines, with columns two spaces apart."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def show_config(config: "Config | Mapping[str, Config]") -> None:
    """Print the resolved config, or several configs by name."""
    from xrec.config import resolved_yaml

    typer.echo(resolved_yaml(config), nl=False)


def summary(manifest: "Manifest", uri: str, *, as_json: bool = False) -> str:
    """Return the artifact's URI, row counts and scalar metrics."""
    metrics = dict(scalars(manifest.metrics))
    if as_json:
        artifact = {"artifact": manifest.kind, "uri": uri, "version": manifest.version}
        content = {"fingerprint": manifest.fingerprint, "rows": manifest.row_counts}
        return json.dumps({**artifact, **content, "metrics": metrics})
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest.row_counts.items())
    rows = [f"  rows: {counts}"] if counts else []
    return "\n".join([f"{manifest.kind}: {uri}", *rows, *_metric_lines(metrics)])


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and words of nested metrics as (dotted name, value), without lists."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line per metric; NAME_low and NAME_high become the interval of NAME."""
    width = max(map(len, metrics), default=0)
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    for name, value in metrics.items():
        if name in ends or name.startswith("gate.bounds."):  # these are in the config
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None else f"  ({_short(low)} to {_short(high)})"
        yield f"  {name:<{width}}  {_short(value)}{interval}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if type(value) is int else str(value)


def to_stderr(line: str) -> None:
    """Print a line of progress, which is not part of the result."""
    typer.echo(line, err=True)
