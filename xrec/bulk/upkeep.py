"""Compaction and vacuum of a finished run's table."""

from datetime import timedelta

from xrec.bulk.ledger import refuse_live_driver
from xrec.bulk.run import BulkRun
from xrec.bulk.state import RunState, read_state
from xrec.errors import TableError
from xrec.table import Vacuumed, Writer
from xrec.table.compaction import plan_pieces


def compact(run: BulkRun, *, holder: str, target_bytes: int = 128 * 2**20) -> int | None:
    """Make few large files of the run's many small ones, a row group for each bucket.

    Returns the new version, or None if all files are so already; the table is not taken over then.
    Raises TableError if the run is not finished: the names of its files say which chunks are done.
    """
    version = run.table.newest_version()
    _finished_state(run, version)
    if not plan_pieces(run.table.snapshot(version), "bucket", target_bytes):
        return None
    writer, state = _finished_writer(run, holder)
    return writer.compact(
        group_by="bucket",
        sort_by=run.format.row_keys,
        target_bytes=target_bytes,
        metadata=state.metadata(),
    )


def vacuum(
    run: BulkRun,
    *,
    holder: str,
    retention: timedelta = timedelta(days=7),
    log_retention: timedelta = timedelta(days=30),
) -> Vacuumed:
    """Delete files and log entries that nobody needs any more; see `Writer.vacuum`.

    Raises TableError if the run is not finished.
    """
    writer, state = _finished_writer(run, holder)
    return writer.vacuum(
        retention=retention, log_retention=log_retention, metadata=state.metadata()
    )


def _finished_writer(run: BulkRun, holder: str) -> tuple[Writer, RunState]:
    """The writer, and the state, which each commit states anew: the log may be cut behind it."""
    refuse_live_driver(run.table)
    _finished_state(run, run.table.newest_version())
    writer = run.table.take_over(holder)
    # A driver may have begun a retry meanwhile.
    return writer, _finished_state(run, writer.version)


def _finished_state(run: BulkRun, version: int) -> RunState:
    _, state = read_state(run.table, version)
    if state is None or state.state != "finished":
        num_done = state.num_rows if state else 0
        raise TableError(
            f"{run.table.location}: the run is not finished: {num_done} of "
            f"{run.plan.record.num_rows} rows are done; run it to its end first"
        )
    return state
