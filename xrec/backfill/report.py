"""Writes `report.json` and `report.html`: what a run cost and produced.

The totals stand in the table's newest commit, so they cover every driver and actor that ever worked
on the run. Rates and costs refer to the time that actors worked on rows that were committed; the
time for loading models and for lost attempts is not included.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from xrec.backfill.report_page import report_page
from xrec.bulk import RunState, read_state
from xrec.bulk.row_format import FAILED as FAILED_STATUS
from xrec.bulk.row_format import OK
from xrec.errors import StorageNotFoundError
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, request_each
from xrec.table import Snapshot, Table

_NUM_BINS = 40
_NUM_FILES = 5  # from which samples are taken
_ROWS_OF_A_FILE = 3
_LENGTH_BIN = 10  # tokens
REPORT = "report.json"

Moment = tuple[datetime, RunState]
"""A commit's time, and the state that it states."""


def write_report(
    table: Table,
    version: int,
    state: RunState,
    num_rejected: int,
    price_per_actor_hour: float | None,
) -> None:
    """Write both files, of a run whose state is `state` at `version` of its table.

    num_rejected: rows of the pairs that have no usable ids, and are in no chunk.

    `price_per_actor_hour` is in any currency; if it is None, the report states no cost.
    """
    snapshot = table.snapshot(version)
    report = {
        "version": version,
        **summarize(state, price_per_actor_hour),
        "num_rejected": num_rejected,
        "timeline": timeline(_moments(table, version)),
        "generated_lengths": _lengths(snapshot),
        "samples": _samples(snapshot, OK, GENERATED),
        "failed_samples": _samples(snapshot, FAILED_STATUS, FAILED),
    }
    output = table.location
    (output / "report.html").write_bytes(report_page(report).encode())
    (output / REPORT).write_bytes(json.dumps(report, indent=2, ensure_ascii=False).encode())


def is_report_of(output: Location, version: int) -> bool:
    """Whether the report at `output`, of which `report.json` is written last, is of a version."""
    try:
        report = json.loads((output / REPORT).read_bytes())
    except (StorageNotFoundError, ValueError):
        return False
    return isinstance(report, dict) and report.get("version") == version


def summarize(state: RunState, price_per_actor_hour: float | None) -> dict[str, Any]:
    """Return rows, tokens, rates, deaths and cost of all that is committed.

    Shares and rates are None if nothing was generated or the engine does not report its work.
    """
    costs = state.costs
    seconds = costs.get("seconds", 0.0)
    num_carried = round(costs.get("carried", 0))
    num_done = state.num_rows - num_carried
    return {
        "num_explained": state.num_ok,
        "num_carried": num_carried,
        "num_plain": round(costs.get("num_plain", 0)),
        "num_refused": round(costs.get("num_refused", 0)),
        "num_failed": state.num_failed,
        "failed_by_reason": dict(sorted(state.failed.items(), key=lambda item: -item[1])),
        "num_retries": state.retry,
        "num_generated": num_done,
        "tokens": {
            kind: round(costs.get(f"num_{kind}_tokens", 0)) for kind in ("prompt", "generated")
        },
        "prefix_hit_share": _one_minus(
            costs, "engine_computed_prompt_tokens", "engine_prompt_tokens"
        ),
        "attention_padding_share": _one_minus(costs, "engine_seen_keys", "engine_key_cells"),
        "num_deaths": state.num_deaths,
        "actor_seconds": seconds,
        "pairs_per_actor_second": num_done / seconds if seconds else None,
        "price_per_actor_hour": price_per_actor_hour,
        "cost_per_million_pairs": (
            None
            if price_per_actor_hour is None or not num_done
            else price_per_actor_hour * seconds / 3600 / num_done * 1e6
        ),
    }


def timeline(moments: Sequence[Moment]) -> list[dict[str, Any]]:
    """Return the pairs a second between each two moments, with the seconds between them.

    `moments` are in the order of time. The time before a driver began, and what was committed in
    it, count only between moments of the driver before. A retry replaces rows, so its rate is 0.
    """
    bins = []
    for (then, before), (now, after) in itertools.pairwise(moments):
        num_pairs = after.num_rows - max(before.num_rows, after.num_rows_before)
        seconds = (now - max(then, after.started_at)).total_seconds()
        if seconds > 0:
            bins.append({"seconds": seconds, "pairs_per_second": num_pairs / seconds})
    return bins


def _moments(table: Table, version: int) -> list[Moment]:
    """The states at up to `_NUM_BINS + 1` versions, which are evenly spread over all of them.

    A running driver commits every few seconds, so they are spread over its time too.
    """
    step = max(1, -(-version // _NUM_BINS))
    found = [*request_each(lambda each: _moment(table, each), range(version, -1, -step))]
    return [moment for moment in reversed(found) if moment is not None]


def _moment(table: Table, version: int) -> Moment | None:
    try:
        commit, state = read_state(table, version)
    except StorageNotFoundError:  # a vacuum shortened the log
        return None
    return None if state is None else (commit.committed_at, state)


def _one_minus(costs: Mapping[str, float], part: str, whole: str) -> float | None:
    return 1 - costs[part] / costs[whole] if costs.get(whole) else None


def _lengths(snapshot: Snapshot) -> dict[str, int]:
    """How many explanations of the first files have a length from so many tokens on, in bins."""
    dataset = snapshot.dataset(paths=_first_files(snapshot, OK))
    lengths = dataset.to_table(columns=["num_generated_tokens"])["num_generated_tokens"].to_pylist()
    bins = Counter(length // _LENGTH_BIN * _LENGTH_BIN for length in lengths)
    return {str(start): count for start, count in sorted(bins.items())}


def _samples(snapshot: Snapshot, status: str, schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the first rows of the first files."""
    rows: list[dict[str, Any]] = []
    for path in _first_files(snapshot, status):
        dataset = snapshot.dataset(paths=[path], schema=schema)
        rows += dataset.head(_ROWS_OF_A_FILE).to_pylist()
    return rows


def _first_files(snapshot: Snapshot, status: str) -> list[str]:
    paths: list[str] = snapshot.files([("status", "=", status)])["path"].to_pylist()
    return sorted(paths)[:_NUM_FILES]
