"""The metrics of a night, for Prometheus' node_exporter (`--collector.textfile`).

Its driver has ended when they are read, so they are a file. infra/grafana/alerts.yaml has rules.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from xrec.bulk import find_published
from xrec.config import BackfillConfig
from xrec.storage import location_of, node_folder, open_location

HELP: Mapping[str, str] = {
    "ended_timestamp_seconds": "When the last night ended, whether or not it published.",
    "success_timestamp_seconds": "When the published explanations were made.",
    "exit_code": "Exit code of the last night: 0 done, 3 not published, 4 over budget.",
    "seconds": "Duration of the last night.",
    "rows": "Recommended pairs of the last night.",
    "carried_share": "Share of these pairs whose text was carried over.",
    "tokens": "Tokens of the last night, over all of its starts.",
    "money": "Costs of the last night, if there are prices.",
    "gate": "The figures of the last night's gate.",
    "stored_bytes": "Size of the workspace.",
    "free_share": "Free share of the disk with this machine's mapped files.",
}
_PREFIX = "xrec_night_"


def write_metrics(
    uri: str, config: BackfillConfig, metrics: Mapping[str, Any], exit_code: int
) -> None:
    """Write the file at `uri`; `metrics` are those of the night's manifest or error.

    Raises StorageError, and what `find_published` raises.
    """
    lines: list[str] = []
    for name, labels, value in _values(config, metrics, exit_code):
        metric = f"{_PREFIX}{name}"
        if not any(line.startswith(f"# HELP {metric} ") for line in lines):
            lines += [f"# HELP {metric} {HELP[name]}", f"# TYPE {metric} gauge"]
        lines.append(f"{metric}{labels} {value:.10g}")
    open_location(uri).write_bytes("".join(f"{line}\n" for line in lines).encode())


def _values(
    config: BackfillConfig, metrics: Mapping[str, Any], exit_code: int
) -> Iterator[tuple[str, str, float]]:
    """Yield the name, the labels and the value of each metric that is known."""
    yield "ended_timestamp_seconds", "", time.time()
    yield "exit_code", "", exit_code
    published = find_published(location_of(config, "explanations"), "explanations")
    if published is not None:
        made_at = datetime.fromisoformat(published.created_at).timestamp()
        yield "success_timestamp_seconds", "", made_at
    costs = metrics.get("night", {})
    yield from ((name, "", costs[name]) for name in ("seconds", "tokens", "money") if name in costs)
    if published is not None and exit_code == 0:
        num_rows = published.row_counts["explanations"] + published.row_counts["failed"]
        yield "rows", "", num_rows
        yield "carried_share", "", metrics.get("num_carried", 0) / max(1, num_rows)
    for figure, value in metrics.get("gate", {}).get("figures", {}).items():
        if value is not None:
            yield "gate", f'{{figure="{figure}"}}', value
    stored = open_location(config.workspace, config.storage).details().values()
    yield "stored_bytes", "", sum(int(info["size"]) for info in stored)
    folder = node_folder()
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    yield "free_share", "", disk.free / disk.total
