"""Where a run ends before its end: at a limit of rows, and when too many rows failed."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from xrec.bulk.run import BulkRun
from xrec.bulk.state import RunState
from xrec.errors import DataError


def check_limit(max_rows: int | None, reasons: Sequence[str]) -> None:
    """Raise ValueError for a limit of rows that makes no sense."""
    if max_rows is None:
        return
    if max_rows < 1:
        raise ValueError(f"max_rows = {max_rows}: expected at least 1")
    if reasons:
        raise ValueError(
            f"max_rows = {max_rows} and a retry of {', '.join(reasons)}: expected one of them; a "
            "retry has no limit"
        )


def nothing_left(run: BulkRun, max_rows: int | None, max_failed_share: float) -> RunState | None:
    """The state of a run that is finished, or has reached its limit; otherwise None.

    Raises DataError if it has reached its limit, and more than `max_failed_share` of its rows
    failed.
    """
    state = run.state()
    if state is None or state.state == "finished":
        return state
    if max_rows is None or not max_rows <= state.num_rows < run.plan.record.num_rows:
        return None
    check_failed_share(run, state, state.num_rows, max_failed_share)
    return state


def first_chunks(chunks: pa.Table, num_rows: int) -> pa.Table:
    """The first of some chunks, as many as are needed for `num_rows` rows.

    chunks: a part of the plan's index.
    """
    sizes = chunks["rows"].to_numpy()
    num_before = np.cumsum(sizes) - sizes
    return chunks.slice(0, int(np.searchsorted(num_before, num_rows)))


def check_failed_share(
    run: BulkRun, state: RunState, num_rows: int, max_failed_share: float
) -> None:
    """Raise DataError if more than `max_failed_share` of `num_rows` rows failed.

    Reasons that the run's format expects do not count.
    """
    faults = {
        reason: count
        for reason, count in state.failed.items()
        if reason not in run.format.expected_reasons
    }
    num_failed = sum(faults.values())
    if num_failed <= max_failed_share * num_rows:
        return
    reasons = ", ".join(
        f"{reason} {count}" for reason, count in sorted(faults.items(), key=lambda item: -item[1])
    )
    raise DataError(
        f"{num_failed} of {num_rows} rows failed ({reasons}), more than "
        f"max_failed_share = {max_failed_share}; {state.num_ok} succeeded, "
        f"{run.plan.record.num_rows - state.num_rows} are left. The rows of status=failed in "
        f"{run.table.location} have texts and messages; correct the cause and retry "
        "these rows, or raise max_failed_share and run again"
    )
