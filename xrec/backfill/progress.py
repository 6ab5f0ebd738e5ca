"""How far a backfill is, in a line: pairs explained, failed and left, the rate, the time left."""

from datetime import datetime

from xrec.bulk import Progress
from xrec.progress import duration


def progress_line(progress: Progress, num_pairs: int, at: datetime) -> str:
    """The progress of a run of `num_pairs` pairs; the rate is this driver's alone."""
    num_left = num_pairs - progress.num_rows
    rate = progress.rows_per_second(at) or 0.0
    left = duration(num_left / rate) if rate else "?"
    return (
        f"{progress.num_ok:,} explained, {progress.num_failed:,} failed, {num_left:,} left; "
        f"{rate:,.1f} pairs/s, {left} to go"
    )
