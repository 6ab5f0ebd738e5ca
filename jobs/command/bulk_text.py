"""The status of a bulk run, and what it costs, as lines for a reader or values for a program."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from xrec.progress import duration

if TYPE_CHECKING:
    from xrec.bulk import Preview, RunState, Status

_PHASES: Mapping[str, str] = {
    "planned": "planned, and not begun",
    "running": "running",
    "silent": "not finished, and its driver gives no sign of life: run it again",
    "stopped": "stopped before it was finished: run it again, and it goes on",
    "finished": "finished",
}
_WIDTH = 10


def status_lines(status: "Status", now: datetime | None = None) -> list[str]:
    """The status as a title and indented lines; `now` is for tests."""
    now = now or datetime.now(UTC)
    title = f"{status.uri}: {status.plan.identity.kind}, {_PHASES[status.phase(now)]}"
    return [title, *(f"  {name:<{_WIDTH}}{text}" for name, text in _entries(status, now))]


def status_values(status: "Status", now: datetime | None = None) -> dict[str, Any]:
    """The status as JSON values: times as ISO 8601 in UTC, durations in seconds."""
    now = now or datetime.now(UTC)
    state = status.state
    return {
        "uri": status.uri,
        "kind": status.plan.identity.kind,
        "run": status.plan.identity.run,
        "version": status.version,
        "phase": status.phase(now),
        "rows": {
            "planned": status.plan.num_rows,
            "ok": state.num_ok if state else 0,
            "failed": state.num_failed if state else 0,
            "left": status.num_left,
            "rejected": status.plan.num_rejected,
        },
        "failed_by_reason": state.failed if state else {},
        "num_chunks": status.plan.num_chunks,
        "holder": status.holder,
        "committed_at": status.committed_at.isoformat(),
        "expires_at": state.expires_at.isoformat() if state and state.expires_at else None,
        "rows_per_second": status.rows_per_second,
        "is_rate_rough": status.is_rate_rough,
        "seconds_left": status.seconds_left,
        "costs": state.costs if state else {},
        "num_deaths": state.num_deaths if state else 0,
        "retry": state.retry if state else 0,
        "retry_reasons": list(state.retry_reasons) if state else [],
        "is_retrying": state.is_retrying if state else False,
    }


def preview_lines(
    preview: "Preview",
    rows: str,
    *,
    num_actors: int,
    price_per_actor_hour: float | None = None,
    retry: Sequence[str] = (),
) -> list[str]:
    """What a run would do.

    rows: what its rows are called. price_per_actor_hour: in any currency. retry: the reasons of
    failed rows that are to be done again.
    """
    lines = [f"{preview.num_rows:,} {rows} in {preview.num_chunks:,} chunks; {_how(preview, rows)}"]
    if preview.rejected:
        lines.append(f"left out for their ids: {reasons_text(preview.rejected)}")
    if preview.status and preview.status.state:
        state = preview.status.state
        failed = f" ({reasons_text(state.failed)})" if state.failed else ""
        lines.append(
            f"done: {state.num_ok:,} ok, {state.num_failed:,} failed{failed}, for "
            f"{costs_text(state.costs) or 'nothing'}; left: {preview.num_left:,}"
        )
        again = {reason: count for reason, count in state.failed.items() if reason in retry}
        if retry:
            lines.append(
                f"to be done again: {sum(again.values()):,} failed {rows}"
                + (f" ({reasons_text(again)})" if again else "")
            )
    if preview.num_left:
        lines += _costs_left(preview, rows, num_actors, price_per_actor_hour)
    return lines


def costs_text(costs: Mapping[str, float]) -> str:
    """The costs that a reader asks for; `seconds` is the time of actors.

    What an engine counts for itself (`engine_...`) is left out, and so is what did not occur.
    """
    shown = [f"{duration(costs['seconds'])} of actors"] if "seconds" in costs else []
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


def _entries(status: "Status", now: datetime) -> Iterator[tuple[str, str]]:
    state, plan = status.state, status.plan
    yield "rows", f"{plan.num_rows:,} in {plan.num_chunks:,} chunks" + _rows_done(status)
    if plan.num_rejected:
        yield "rejected", f"{plan.num_rejected:,} rows of the input, for their ids"
    if state is None:
        return
    if state.failed:
        yield "failed", reasons_text(state.failed)
    yield "driver", f"{status.holder or 'unknown'}; {_sign_of_life(status, now)}"
    if state.retry:
        yield "retry", _retry(state)
    if status.phase(now) == "running" and status.num_left:
        yield "rate", _rate(status, now)
    if state.costs:
        yield "costs", costs_text(state.costs)
    if state.num_deaths:
        yield "deaths", f"{state.num_deaths:,} processes died while they worked"
    yield "version", str(status.version)


def _rows_done(status: "Status") -> str:
    if status.state is None:
        return ""
    share = status.num_done / status.plan.num_rows
    return (
        f": {status.state.num_ok:,} ok, {status.state.num_failed:,} failed, "
        f"{status.num_left:,} left ({share:.1%} done)"
    )


def _sign_of_life(status: "Status", now: datetime) -> str:
    ago = max(0.0, (now - status.committed_at).total_seconds())  # clocks may differ
    return f"last commit {duration(ago)} ago, at {status.committed_at:%Y-%m-%d %H:%M:%S} UTC"


def _retry(state: "RunState") -> str:
    how = "under way" if state.is_retrying else "done"
    return f"number {state.retry}, of {', '.join(state.retry_reasons)}: {how}"


def _rate(status: "Status", now: datetime) -> str:
    rate, seconds = status.rows_per_second, status.seconds_left
    if rate is None or seconds is None:
        return "not known before this driver has committed rows"
    left = max(0.0, seconds - (now - status.committed_at).total_seconds())
    rough = " (rough: few chunks are done)" if status.is_rate_rough else ""
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{shown} rows/s, {duration(left)} left{rough}"


def _how(preview: "Preview", rows: str) -> str:
    """How the rows were counted."""
    if preview.counts is None:
        return f"they are planned, so no {rows} were read"
    num_twice = preview.counts.num_given - preview.counts.num_rows
    twice = f", and {num_twice:,} duplicates dropped" if num_twice else ""
    return f"counted by reading all of them{twice}"


def _costs_left(
    preview: "Preview", rows: str, num_actors: int, price: float | None
) -> Iterator[str]:
    rate, costs = preview.rate, preview.costs_left
    if rate is None or costs is None:
        canary = min(preview.num_left, num_actors * -(-preview.num_rows // preview.num_chunks))
        yield (
            f"what they cost is not known, because no run was measured: --limit {canary} does the "
            "first ones of this run and measures it"
        )
        return
    hours = costs["seconds"] / 3600
    money = f", {hours * price:,.2f} at the price of an actor's hour" if price is not None else ""
    yield (
        f"to come: about {costs_text(costs)}; {duration(costs['seconds'] / num_actors)} with "
        f"{num_actors} actor{'s' if num_actors > 1 else ''}, besides their start{money}"
    )
    if preview.is_own_rate:
        yield f"  by the rate of the {rows} that are done"
    else:
        yield f"  by the rate of {rate.num_done:,} {rows} of {rate.uri}, if none is carried over"
