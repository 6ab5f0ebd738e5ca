"""Describe what a backfill would do, and what it would cost at the measured rate."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from xrec.bulk import AGAIN, Preview
from xrec.progress import duration, short


def preview_lines(preview: Preview, num_actors: int, retry: Sequence[str] = ()) -> list[str]:
    """Return lines to print; failed pairs with the reasons `retry` are tried again."""
    lines = [f"{preview.num_rows:,} pairs in {preview.num_chunks:,} chunks"]
    if preview.rejected:
        lines.append(f"left out: {_counts(preview.rejected)}")
    if preview.status and (progress := preview.status.progress) is not None:
        failed = f" ({_counts(progress.failed)})" if progress.failed else ""
        lines.append(
            f"done: {progress.num_ok:,} ok, {progress.num_failed:,} failed{failed}; "
            f"cost {_costs(progress.costs) or 'nothing'}; left: {preview.num_left:,}"
        )
        if retry:
            again = {
                reason: progress.failed[reason] for reason in retry if reason in progress.failed
            }
            reasons = f" ({_counts(again)})" if again else ""
            lines.append(f"to retry: {sum(again.values()):,} failed pairs{reasons}")
    if preview.num_left:
        lines += _costs_left(preview, num_actors)
    elif preview.status and not retry:
        is_published = preview.status.is_published
        lines.append("nothing left to do" if is_published else "only publishing is left")
    return lines


def _costs_left(preview: Preview, num_actors: int) -> Iterator[str]:
    if (costs := preview.costs_left) is None:
        canary = min(preview.num_left, num_actors * -(-preview.num_rows // preview.num_chunks))
        yield (
            f"costs are unknown because no run was measured here; set limit={canary} to explain "
            "and measure the first pairs of this run"
        )
        return
    actors = f"{num_actors} actor{'s' if num_actors > 1 else ''}"
    duration_left = duration(costs["seconds"] / num_actors)
    yield f"to come: about {_costs(costs)}; {duration_left} with {actors}, plus startup"
    if preview.measured_at is None:
        yield "  estimated from the pairs of this run that are done"
    else:
        yield f"  estimated from pairs done at {preview.measured_at}; less if any are carried over"


def _costs(costs: Mapping[str, float]) -> str:
    """Format the nonzero costs, without the engine's own counters (`engine_...`)."""
    shown = [f"{duration(costs['seconds'])} of actor time"] if "seconds" in costs else []
    shown += [
        f"{short(cost)} {name.removeprefix('num_').replace('_', ' ')}"
        for name, cost in costs.items()
        if name != "seconds" and not name.startswith(("engine_", AGAIN)) and cost
    ]
    return ", ".join(shown)


def _counts(counts: Mapping[str, int]) -> str:
    """Format counts by reason, the largest first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(counts).most_common())
