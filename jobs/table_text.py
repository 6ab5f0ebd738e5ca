"""The status of a bulk run as values, and what a run would cost as lines for a reader."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from xrec.progress import duration

if TYPE_CHECKING:
    from xrec.bulk import Status
    from xrec.bulk.preview import Preview

_NOTES: Mapping[str, str] = {
    "silent": "its driver gives no sign of life; run it again to go on",
    "stopped": "it was stopped before it was done; run it again to go on",
    "done": "it is not what is published; run it again to publish it",
    "replaced": "something else was published since, or it was taken back",
}


def status_values(status: "Status", now: datetime | None = None) -> dict[str, Any]:
    """The status for a reader and for programs, as values of JSON and YAML.

    Times are ISO 8601 in UTC. `now` is for tests.
    """
    record, progress, manifest = status.record, status.progress, status.manifest
    phase = status.phase(now or datetime.now(UTC))
    return {
        "uri": status.uri,
        "kind": record.identity.kind,
        "run": record.run,
        "phase": phase,
        **({"note": _NOTES[phase]} if phase in _NOTES else {}),
        "rows": {
            "planned": record.num_rows,
            "ok": progress.num_ok if progress else 0,
            "failed": progress.num_failed if progress else 0,
            "left": status.num_left,
            "rejected": record.num_rejected,
        },
        "rows_per_second": status.rows_per_second,
        "seconds_left": status.seconds_left,
        "time_left": duration(status.seconds_left) if status.seconds_left else None,
        "progress": progress.model_dump(mode="json") if progress else None,
        "published": manifest
        and {
            "version": manifest.version,
            "created_at": manifest.created_at,
            "is_this_run": status.is_published,
            "rows": dict(manifest.row_counts),
            "metrics": dict(manifest.metrics),
        },
    }


def preview_lines(preview: "Preview", num_actors: int, retry: Sequence[str] = ()) -> list[str]:
    """What a backfill would do; `retry` are the reasons of failed pairs that are done again."""
    lines = [f"{preview.num_rows:,} pairs in {preview.num_chunks:,} chunks"]
    if preview.rejected:
        lines.append(f"left out, for their ids cannot be used: {reasons_text(preview.rejected)}")
    if preview.status and (progress := preview.status.progress) is not None:
        failed = f" ({reasons_text(progress.failed)})" if progress.failed else ""
        lines.append(
            f"done: {progress.num_ok:,} ok, {progress.num_failed:,} failed{failed}; they took "
            f"{costs_text(progress.costs) or 'nothing'}; left: {preview.num_left:,}"
        )
        again = {reason: count for reason, count in progress.failed.items() if reason in retry}
        if retry:
            lines.append(
                f"to be done again: {sum(again.values()):,} failed pairs"
                + (f" ({reasons_text(again)})" if again else "")
            )
    if preview.num_left:
        lines += _costs_left(preview, num_actors)
    elif preview.status and not retry:
        is_published = preview.status.is_published
        lines.append("nothing is left to do" if is_published else "it is left to be published")
    return lines


def costs_text(costs: Mapping[str, float]) -> str:
    """The costs that a reader asks for; `seconds` is the time of actors.

    What an engine counts for itself (`engine_...`) is left out, and so is what did not occur.
    """
    shown = [f"{duration(costs['seconds'])} of actor time"] if "seconds" in costs else []
    shown += [
        f"{cost:,.0f} {name.removeprefix('num_').replace('_', ' ')}"
        for name, cost in costs.items()
        if name != "seconds" and not name.startswith("engine_") and cost
    ]
    return ", ".join(shown)


def reasons_text(counts: Mapping[str, int]) -> str:
    """Counts by reason, the largest first."""
    most_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count:,}" for reason, count in most_first)


def _costs_left(preview: "Preview", num_actors: int) -> Iterator[str]:
    if (costs := preview.costs_left) is None:
        canary = min(preview.num_left, num_actors * -(-preview.num_rows // preview.num_chunks))
        yield (
            f"what they cost is not known, because no run was measured here: limit={canary} does "
            "the first pairs of this run, and measures it"
        )
        return
    yield (
        f"to come: about {costs_text(costs)}; {duration(costs['seconds'] / num_actors)} with "
        f"{num_actors} actor{'s' if num_actors > 1 else ''}, without the time to start"
    )
    if preview.measured_at is None:
        yield "  reckoned from the pairs of this run that are done"
    else:
        yield f"  reckoned from pairs done at {preview.measured_at}; less if some are kept"
