"""The metrics of the endpoint. Ray exports them for all replicas of a node, prefixed with `ray_`.

Labels never contain a text, a user or an item.
"""

from datetime import datetime

from ray.util.metrics import Counter, Gauge, Histogram

from xrec.storage import Manifest

_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


class Metrics:
    """The metrics of a frontend or a model replica; one is exported once it has a value."""

    def __init__(self) -> None:
        self.requests = Counter(
            "xrec_serve_requests_total",
            "HTTP requests answered, by route template and status.",
            ("route", "status"),
        )
        self.request_seconds = Histogram(
            "xrec_serve_request_seconds",
            "Time from a request to the end of its response, s.",
            _SECONDS,
            ("route",),
        )
        self.requests_in_flight = Gauge("xrec_serve_requests_in_flight", "HTTP requests in flight.")
        self.refused = Counter(
            "xrec_serve_refused_total",
            "Requests refused, by reason: key, scope, rate, concurrency, body, slow_body, queue, "
            "deadline.",
            ("reason",),
        )
        self.pairs = Counter(
            "xrec_serve_pairs_total",
            "Pairs answered, by source: backfill, cache (generated for an earlier request), live "
            "or failed.",
            ("source",),
        )
        self.failed_pairs = Counter(
            "xrec_serve_failed_pairs_total", "Pairs without an explanation, by reason.", ("reason",)
        )
        self.first_token_seconds = Histogram(
            "xrec_serve_first_token_seconds",
            "Time from a live pair's arrival to its first token, s.",
            _SECONDS,
        )
        self.generation_seconds = Histogram(
            "xrec_serve_generation_seconds",
            "Time from a live pair's arrival to the end of its text, s.",
            _SECONDS,
        )
        self.tokens = Counter(
            "xrec_serve_tokens_total",
            "Tokens of live pairs, by kind: prompt or generated.",
            ("kind",),
        )

        self.refreshes = Counter(
            "xrec_serve_backfill_refreshes_total",
            "New versions of the backfill, by outcome: taken or refused.",
            ("outcome",),
        )
        self.backfill_rows = Gauge(
            "xrec_serve_backfill_rows", "Explanations in the backfill in use."
        )
        self.backfill_time = Gauge(
            "xrec_serve_backfill_timestamp_seconds", "When the backfill in use was published."
        )
        self.backfill_gate = Gauge(
            "xrec_serve_backfill_gate_passed",
            "1 if the backfill in use passed its gate, 0 if it was forced or had no gate.",
        )
        self.swaps = Counter(
            "xrec_serve_swaps_total",
            "Changes of artifacts under load, by deployment and outcome.",
            ("deployment", "outcome"),
        )

        self.abandoned = Counter(
            "xrec_serve_abandoned_total",
            "Live pairs whose client disconnected or whose deadline passed.",
        )
        self.model_pairs = Gauge(
            "xrec_serve_model_pairs",
            "Pairs that a model replica is explaining or that wait for it.",
        )

    def reads(self, backfill: Manifest) -> None:
        """Record the time and the gate's verdict of the version that is now in use."""
        self.backfill_time.set(datetime.fromisoformat(backfill.created_at).timestamp())
        self.backfill_gate.set(bool(backfill.metrics.get("gate", {}).get("passed")))
