"""Explain the pairs left in a run on actors, publish the run, and vacuum the table.

Every few seconds the driver updates Ray metrics for Prometheus (`BackfillMetrics`).
"""

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from ray.util.metrics import Counter, Gauge

from xrec.backfill.made_from import made_from
from xrec.backfill.plan import retry_reasons
from xrec.backfill.task import LoadExplainer, explain_task, load_task_explainer
from xrec.bulk import (
    BulkRun,
    Describe,
    DriveOptions,
    Progress,
    Summary,
    Survey,
    carried_of,
    check_failed_share,
    complete,
    costs_in_errors,
    now,
    publish,
    spent_of,
    use_of,
    vacuum,
)
from xrec.bulk import has_work as rows_are_left
from xrec.config import BackfillConfig
from xrec.processes import RayPool, gpus_each
from xrec.progress import counter, duration
from xrec.storage import Manifest, with_backoff

logger = logging.getLogger("xrec")

KIND: Final = "explanations"
_MOST_CHUNKS = 16


class PublishGate(Protocol):
    """The check whether a finished run is published (`xrec.nights.Gate`).

    force: why it is published in any case; empty if `check` decides. metrics: those it adds to
    the manifest.
    """

    force: str
    metrics: dict[str, Any]

    def check(self) -> Mapping[str, float]:
        """Return its costs; raise GateError if the run must not be published."""


def has_work(config: BackfillConfig, run: BulkRun) -> bool:
    """Return whether pairs are left (within the limit, if any) or failed ones are to be retried."""
    return rows_are_left(run, retry=retry_reasons(config), max_rows=config.limit)


def chunks_at_once(config: BackfillConfig, rows_per_chunk: int) -> int:
    """Return how many chunks an actor works on at the same time.

    At least two, so that the prompts of the next chunk start while the last texts of the previous
    one are being written. For small chunks, enough to fill the engine's rows twice: the longest
    text of a chunk takes about twice as long as the others.
    """
    return min(_MOST_CHUNKS, 1 + -(-2 * config.texts_at_once // rows_per_chunk))


def run_backfill(
    config: BackfillConfig,
    run: BulkRun,
    load: LoadExplainer = load_task_explainer,
    gate: PublishGate | None = None,
) -> Manifest | None:
    """Explain the pairs left in `run`, retry failed rows if the config says so, and publish.

    Returns the manifest; None if the limit ended the run before it was done. Ray must be
    initialized. Raises what `complete` and `gate` raise; finished rows are kept, and the next call
    continues.
    """
    actors, size = config.actors, run.record.size
    most = config.num_processes
    pool = RayPool(
        max_actors=most,
        min_actors=min(actors.fewest, most),
        cpus=actors.cpus,
        gpus=gpus_each(actors.device, most, config.gpus_per_process),
    )
    metrics = BackfillMetrics(size.num_rows)
    with counter("pairs", size.num_rows) as show:

        def on_progress(progress: Progress) -> None:
            metrics.record(progress)
            show(progress.num_rows, progress_line(progress, size.num_rows, now()))

        manifest = complete(
            run,
            pool,
            explain_task(config, run.record.identity, load, sum(p.is_done for p in run.passes())),
            KIND,
            describe(config, run, gate),
            DriveOptions(
                chunks_at_once=chunks_at_once(config, -(-size.num_rows // size.num_chunks)),
                retry=retry_reasons(config),
                max_failed_share=config.max_failed_share,
                max_rows=config.limit,
                spent=spent_of(config.budget, config.prices, time.monotonic()),
                on_progress=on_progress,
            ),
            check=gate.check if gate else dict,
        )
    return None if manifest is None else _after_publishing(config, run, manifest)


def finish(
    config: BackfillConfig, run: BulkRun, gate: PublishGate | None = None
) -> Manifest | None:
    """Publish a run that is done, and vacuum; do nothing and return None if pairs are left.

    With `gate.force`, a run that was rolled back or removed from the table is published again.
    Nothing is written if the run is already published. Raises what `publish` and `gate` raise, and
    GateError if there is no gate and too many pairs failed.
    """
    with costs_in_errors(run):
        if gate is None:
            check_failed_share(run, Survey(run).summary, config.max_failed_share)
        manifest = publish(
            run,
            KIND,
            describe(config, run, gate),
            republish=bool(gate and gate.force),
            check=gate.check if gate else dict,
        )
    return None if manifest is None else _after_publishing(config, run, manifest)


def progress_line(progress: Progress, num_pairs: int, at: datetime) -> str:
    """Return the progress of a run of `num_pairs` pairs; the rate is only that of this driver."""
    num_left = num_pairs - progress.num_rows
    rate = progress.rows_per_second(at)
    speed = f"; {rate:,.1f} pairs/s, {duration(num_left / rate)} to go" if rate else ""
    return (
        f"{progress.num_ok:,} explained, {progress.num_failed:,} failed, {num_left:,} left{speed}"
    )


def describe(config: BackfillConfig, run: BulkRun, gate: PublishGate | None) -> Describe:
    """Return a function that turns a run's summary into row counts and metrics of its manifest."""

    def of(summary: Summary) -> tuple[Mapping[str, int | str], Mapping[str, Any]]:
        row_counts: dict[str, int | str] = {
            "explanations": "num_ok",
            "failed": "num_failed",
            "rejected": run.record.num_rejected,
        }
        return row_counts, {
            "num_chunks": run.record.size.num_chunks,
            **carried_of(summary.costs),
            "num_taken_down": run.record.num_taken_down,
            "num_retries": len(run.passes()) - 1,
            "num_deaths": summary.num_deaths,
            "failed_by_reason": dict(summary.failed),
            "made_from": made_from(config),
            **use_of(summary.costs, config.prices),
            **(gate.metrics if gate else {}),
        }

    return of


def _after_publishing(config: BackfillConfig, run: BulkRun, manifest: Manifest) -> Manifest:
    if (hours := config.vacuum_hours) is not None:
        arguments = run.output.uri, timedelta(hours=hours), config.storage
        logger.info("vacuum: %d files deleted", with_backoff(lambda: vacuum(*arguments)))
    return manifest


class BackfillMetrics:
    """The metrics of one driver of a run of `num_pairs` pairs; Ray must be initialized.

    Counters cover the work done since this driver started. A retry that explains a pair counts it
    as explained; the count of its earlier failure reason is not reduced.
    """

    def __init__(self, num_pairs: int):
        self._num_pairs = num_pairs
        self._before: Progress | None = None
        self._pairs = Counter(
            "xrec_backfill_pairs_total", "Pairs done, by outcome or failure reason.", ("outcome",)
        )
        self._tokens = Counter(
            "xrec_backfill_tokens_total",
            "Tokens of generated explanations and of their prompts.",
            ("kind",),
        )
        self._deaths = Counter("xrec_backfill_deaths_total", "Actor processes that died.")
        self._seconds = Counter(
            "xrec_backfill_actor_seconds_total", "Time that actors spent on pairs, in seconds."
        )
        self._left = Gauge("xrec_backfill_pairs_left", "Pairs that are not done.")

    def record(self, progress: Progress) -> None:
        """Add the changes since the previous call; the first call adds nothing."""
        before, self._before = self._before or progress, progress
        for outcome, count in _outcomes(progress).items():
            _add(self._pairs, count - _outcomes(before).get(outcome, 0), outcome=outcome)
        for kind in ("prompt", "generated"):
            name = f"num_{kind}_tokens"
            _add(self._tokens, progress.costs.get(name, 0) - before.costs.get(name, 0), kind=kind)
        _add(self._deaths, progress.num_deaths - before.num_deaths)
        _add(self._seconds, progress.costs.get("seconds", 0) - before.costs.get("seconds", 0))
        self._left.set(self._num_pairs - progress.num_rows)


def _outcomes(progress: Progress) -> dict[str, float]:
    carried, failed = (progress.costs.get(name, 0) for name in ("carried", "carried_failed"))
    return {"explained": progress.num_ok - carried + failed, "carried": carried, **progress.failed}


def _add(counter: Counter, amount: float, **tags: str) -> None:
    if amount > 0:
        counter.inc(amount, tags)
