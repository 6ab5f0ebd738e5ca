"""The metrics of the endpoint. Each is recorded in two places:

- `GET /metrics` returns those of the frontend replica that answers, as Prometheus text.
- Ray exports those of all replicas on each node, with `ray_` before each name.

Labels never hold a text, a user or an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import prometheus_client
import ray.util.metrics

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Metric:
    """A metric; `buckets` are the upper bounds of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(f"xrec_serve_{name}", "counter", help_text, labels)


def _gauge(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(f"xrec_serve_{name}", "gauge", help_text, labels)


def _histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(f"xrec_serve_{name}", "histogram", help_text, labels, buckets)


REQUESTS = _counter(
    "requests_total", "HTTP requests answered, by route template and status.", "route", "status"
)
REQUEST_SECONDS = _histogram(
    "request_seconds", "Time from a request to the end of its answer, s.", _SECONDS, "route"
)
REQUESTS_IN_FLIGHT = _gauge("requests_in_flight", "HTTP requests being answered.")
REFUSED = _counter(
    "refused_total",
    "Requests refused, by reason: key, rate, concurrency, body, queue, deadline.",
    "reason",
)
PAIRS = _counter(
    "pairs_total",
    "Pairs answered, by source: backfill, cache (generated for an earlier request), live, failed.",
    "source",
)
FAILED_PAIRS = _counter("failed_pairs_total", "Pairs without an explanation, by reason.", "reason")
FIRST_TOKEN_SECONDS = _histogram(
    "first_token_seconds", "Time from a live pair's arrival to its first token, s.", _SECONDS
)
GENERATION_SECONDS = _histogram(
    "generation_seconds", "Time from a live pair's arrival to its text's end, s.", _SECONDS
)
TOKENS = _counter("tokens_total", "Tokens of live pairs, by kind: prompt, generated.", "kind")
REFRESHES = _counter(
    "backfill_refreshes_total", "New versions of the backfill: taken, refused.", "outcome"
)
BACKFILL_ROWS = _gauge("backfill_rows", "Explanations in the backfill that is in use.")
CACHE_BYTES = _gauge("cache_bytes", "Bytes held, by cache: backfill, live.", "cache")
ABANDONED = _counter(
    "abandoned_total", "Live pairs whose client disconnected or whose deadline passed."
)
MODEL_ROWS = _gauge("model_rows", "Pairs that a model replica generates now.")
MODEL_WAITING = _gauge("model_waiting", "Pairs that wait for a row of a model replica.")
SWAPS = _counter(
    "swaps_total",
    "Changes of artifacts under load, by deployment and outcome.",
    "deployment",
    "outcome",
)


class Recorder:
    """Records metrics, each from its first value on; a process makes one recorder."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._made: dict[Metric, tuple[Any, Any]] = {}

    def increase(
        self, metric: Metric, labels: Mapping[str, str] | None = None, by: float = 1
    ) -> None:
        """Add to a counter."""
        if by:
            self._record("inc", metric, by, labels)

    def set(self, metric: Metric, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Set a gauge."""
        self._record("set", metric, value, labels)

    def observe(
        self, metric: Metric, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Count a value in a histogram."""
        self._record("observe", metric, value, labels)

    def text(self) -> bytes:
        """Return all metrics of this process in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def _record(
        self, how: str, metric: Metric, value: float, labels: Mapping[str, str] | None
    ) -> None:
        """Record a value in the metric as prometheus_client and as Ray have it."""
        if metric not in self._made:
            self._made[metric] = self._make(metric)
        local, exported = self._made[metric]
        getattr(local.labels(**labels) if labels else local, how)(value)
        getattr(exported, how)(value, dict(labels or {}))

    def _make(self, metric: Metric) -> tuple[Any, Any]:
        kind, described = metric.kind.capitalize(), (metric.name, metric.help)
        local, exported = getattr(prometheus_client, kind), getattr(ray.util.metrics, kind)
        bounds = {"buckets": metric.buckets} if metric.buckets else {}
        return (
            local(*described, metric.labels, registry=self._registry, **bounds),
            exported(*described, *map(list, bounds.values()), metric.labels),
        )
