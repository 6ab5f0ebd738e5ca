"""What commands print: tables, a job's manifest when it is finished, a config by --dry-run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from xrec.config import Config
    from xrec.storage import Manifest


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A line each, the header first, columns two spaces apart; the last column is not padded."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def show_config(config: "Config | Mapping[str, Config]") -> None:
    """Print the resolved config, or several under their names."""
    from xrec.config import resolved_yaml

    typer.echo(resolved_yaml(config), nl=False)


def summary(manifest: "Manifest", uri: str, *, as_json: bool = False) -> str:
    """The artifact's URI, row counts and scalar metrics; curves and tables stay in its manifest."""
    if as_json:
        told = {"artifact": manifest.kind, "uri": uri, "version": manifest.version}
        more = {"fingerprint": manifest.fingerprint, "rows": manifest.row_counts}
        return json.dumps({**told, **more, "metrics": dict(scalars(manifest.metrics))})
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest.row_counts.items())
    return "\n".join(
        [
            f"{manifest.kind}: {uri}",
            *([f"  rows: {counts}"] if counts else []),
            *_metric_lines(dict(scalars(manifest.metrics))),
        ]
    )


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of nested metrics, as (dotted name, value); lists are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """A line each; the ends of an interval, NAME_low and NAME_high, stand behind their metric."""
    width = max(map(len, metrics), default=0)
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    for name, value in metrics.items():
        if name in ends or name.startswith("gate.bounds."):  # which the config has
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None else f"  ({_short(low)} to {_short(high)})"
        yield f"  {name:<{width}}  {_short(value)}{interval}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if type(value) is int else str(value)
