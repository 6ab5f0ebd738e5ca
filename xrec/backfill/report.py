"""Writes `report.json`: what a run cost and produced."""

import json

from xrec.bulk import RunState
from xrec.table import Table

REPORT = "report.json"


def write_report(
    table: Table, version: int, state: RunState, price_per_actor_hour: float | None
) -> None:
    """Write the file."""
    report = {"version": version, **state.model_dump(mode="json"), "price": price_per_actor_hour}
    (table.location / REPORT).write_bytes(json.dumps(report, indent=2).encode())
