"""A backfill's counts as Ray metrics, for Prometheus; the driver sets them every few seconds.

xrec_backfill_pairs_total{outcome="explained" | "carried" | a reason of failed rows}
xrec_backfill_tokens_total{kind="prompt" | "generated"}
xrec_backfill_deaths_total
xrec_backfill_actor_seconds_total
xrec_backfill_pairs_left
"""

from ray.util.metrics import Counter, Gauge

from xrec.bulk import Progress


class BackfillMetrics:
    """The metrics of one driver of a run of `num_pairs` pairs; Ray must be initialised.

    Counters count what is done since this driver began. A retry that explains a pair counts it as
    explained; the count of the reason for which it had failed stays.
    """

    def __init__(self, num_pairs: int):
        self._num_pairs = num_pairs
        self._before: Progress | None = None
        self._pairs = Counter(
            "xrec_backfill_pairs_total", "Pairs that are done, by outcome.", ("outcome",)
        )
        self._tokens = Counter(
            "xrec_backfill_tokens_total",
            "Tokens of generated explanations and their prompts.",
            ("kind",),
        )
        self._deaths = Counter("xrec_backfill_deaths_total", "Processes that died at work.")
        self._seconds = Counter(
            "xrec_backfill_actor_seconds_total", "Time that actors took for pairs, s."
        )
        self._left = Gauge("xrec_backfill_pairs_left", "Pairs that are not done.")

    def record(self, progress: Progress) -> None:
        """Count what was not there the last time; the first time counts nothing."""
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
    carried = progress.costs.get("carried", 0)
    return {"explained": progress.num_ok - carried, "carried": carried, **progress.failed}


def _add(counter: Counter, amount: float, **tags: str) -> None:
    if amount > 0:
        counter.inc(amount, tags)
