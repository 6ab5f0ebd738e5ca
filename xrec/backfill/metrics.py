"""A backfill's counts as Ray metrics, for Prometheus; the driver records them as chunks end.

xrec_backfill_pairs_total{outcome="explained" | "carried" | a reason of failed rows}
xrec_backfill_tokens_total{kind="prompt" | "generated"}
xrec_backfill_deaths_total
xrec_backfill_chunk_seconds
xrec_backfill_pairs_left
"""

from ray.util.metrics import Counter, Gauge, Histogram

from xrec.backfill.commit import Commit

_CHUNK_SECONDS = [1.0, 5.0, 15.0, 60.0, 300.0, 1200.0]


class BackfillMetrics:
    """The metrics of one driver with `num_left` pairs to do; Ray must be initialised."""

    def __init__(self, num_left: int):
        self._num_left = num_left
        self._pairs = Counter(
            "xrec_backfill_pairs_total", "Pairs of committed chunks, by outcome.", ("outcome",)
        )
        self._tokens = Counter(
            "xrec_backfill_tokens_total",
            "Tokens of generated explanations and their prompts.",
            ("kind",),
        )
        self._deaths = Counter(
            "xrec_backfill_deaths_total", "Attempts at committed chunks whose process died."
        )
        self._seconds = Histogram(
            "xrec_backfill_chunk_seconds", "Time that an actor took for a chunk, s.", _CHUNK_SECONDS
        )
        self._left = Gauge("xrec_backfill_pairs_left", "Pairs that are not committed.")
        self._left.set(num_left)

    def record(self, commit: Commit) -> None:
        """Count a committed chunk."""
        counts = {
            "explained": commit.num_rows - commit.num_carried,
            "carried": commit.num_carried,
            **commit.failed_by_reason,
        }
        tokens = {
            "prompt": commit.work.num_prompt_tokens,
            "generated": commit.work.num_generated_tokens,
        }
        for counter, tag, values in (
            (self._pairs, "outcome", counts),
            (self._tokens, "kind", tokens),
        ):
            for value, count in values.items():
                if count:
                    counter.inc(count, {tag: value})
        if commit.work.num_deaths:
            self._deaths.inc(commit.work.num_deaths)
        self._seconds.observe(commit.work.seconds)
        self._num_left -= commit.num_rows + commit.num_failed
        self._left.set(self._num_left)
