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
_TOKENS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Metric:
    """A metric; `buckets` are the upper bounds of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "xrec_serve_requests_total",
    "counter",
    "HTTP requests answered, by route template and status.",
    ("route", "status"),
)
REQUEST_SECONDS = Metric(
    "xrec_serve_request_seconds",
    "histogram",
    "Time from a request to the end of its answer, s.",
    ("route",),
    _SECONDS,
)
REQUESTS_IN_FLIGHT = Metric(
    "xrec_serve_requests_in_flight", "gauge", "HTTP requests being answered."
)
REFUSED = Metric(
    "xrec_serve_refused_total",
    "counter",
    "Requests refused, by reason: key, rate, concurrency, body, queue, deadline.",
    ("reason",),
)
PAIRS = Metric(
    "xrec_serve_pairs_total",
    "counter",
    "Pairs answered, by source: backfill, cache (generated for an earlier request), live, failed.",
    ("source",),
)
FAILED_PAIRS = Metric(
    "xrec_serve_failed_pairs_total",
    "counter",
    "Pairs without an explanation, by reason.",
    ("reason",),
)
FIRST_TOKEN_SECONDS = Metric(
    "xrec_serve_first_token_seconds",
    "histogram",
    "Time from a live pair's arrival to its first token, s.",
    (),
    _SECONDS,
)
GENERATION_SECONDS = Metric(
    "xrec_serve_generation_seconds",
    "histogram",
    "Time from a live pair's arrival to its text's end, s.",
    (),
    _SECONDS,
)
TOKENS = Metric(
    "xrec_serve_tokens_total",
    "counter",
    "Tokens of live pairs, by kind: prompt, generated.",
    ("kind",),
)
GENERATED_LENGTH = Metric(
    "xrec_serve_generated_tokens", "histogram", "Generated tokens of a live text.", (), _TOKENS
)
ABANDONED = Metric(
    "xrec_serve_abandoned_total",
    "counter",
    "Live pairs whose client disconnected or whose deadline passed.",
)
REFRESHES = Metric(
    "xrec_serve_backfill_refreshes_total",
    "counter",
    "New versions of the backfill, by outcome: taken, refused.",
    ("outcome",),
)
BACKFILL_ROWS = Metric(
    "xrec_serve_backfill_rows", "gauge", "Explanations in the backfill that is in use."
)
CACHE_BYTES = Metric(
    "xrec_serve_cache_bytes", "gauge", "Bytes held, by cache: backfill, live.", ("cache",)
)
MODEL_ROWS = Metric("xrec_serve_model_rows", "gauge", "Pairs that a model replica generates now.")
MODEL_WAITING = Metric(
    "xrec_serve_model_waiting", "gauge", "Pairs that wait for a row of a model replica."
)
MODEL_KV_CACHE_BYTES = Metric(
    "xrec_serve_model_kv_cache_bytes",
    "gauge",
    "Bytes of a model replica's KV cache, allocated once.",
)
SWAPS = Metric(
    "xrec_serve_swaps_total",
    "counter",
    "Changes of adapter or backfill under load, by deployment and outcome.",
    ("deployment", "outcome"),
)

FRONTEND = (
    REQUESTS,
    REQUEST_SECONDS,
    REQUESTS_IN_FLIGHT,
    REFUSED,
    PAIRS,
    FAILED_PAIRS,
    FIRST_TOKEN_SECONDS,
    GENERATION_SECONDS,
    TOKENS,
    GENERATED_LENGTH,
    REFRESHES,
    BACKFILL_ROWS,
    CACHE_BYTES,
    SWAPS,
)
"""The metrics of a frontend replica: at `GET /metrics`, and exported by Ray."""

GENERATOR = (ABANDONED, MODEL_ROWS, MODEL_WAITING, MODEL_KV_CACHE_BYTES, SWAPS)
"""The metrics of a model replica: only exported by Ray."""


class Recorder:
    """Records the metrics of `table`. Ray must be initialised; a process makes one recorder."""

    def __init__(self, table: tuple[Metric, ...]):
        self._registry = prometheus_client.CollectorRegistry()
        self._local = {metric.name: _local(metric, self._registry) for metric in table}
        self._exported = {metric.name: _exported(metric) for metric in table}

    def increase(
        self, metric: Metric, labels: Mapping[str, str] | None = None, by: float = 1
    ) -> None:
        """Add to a counter."""
        self._labelled(metric, labels).inc(by)
        if by:
            self._exported[metric.name].inc(by, dict(labels or {}))

    def set(self, metric: Metric, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Set a gauge."""
        self._labelled(metric, labels).set(value)
        self._exported[metric.name].set(value, dict(labels or {}))

    def observe(
        self, metric: Metric, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Count a value in a histogram."""
        self._labelled(metric, labels).observe(value)
        self._exported[metric.name].observe(value, dict(labels or {}))

    def text(self) -> bytes:
        """Return all metrics of this process in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

    def _labelled(self, metric: Metric, labels: Mapping[str, str] | None) -> Any:
        local = self._local[metric.name]
        return local.labels(**labels) if labels else local


def _local(metric: Metric, registry: prometheus_client.CollectorRegistry) -> Any:
    if metric.kind == "counter":
        return prometheus_client.Counter(metric.name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return prometheus_client.Gauge(metric.name, metric.help, metric.labels, registry=registry)
    return prometheus_client.Histogram(
        metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
    )


def _exported(metric: Metric) -> Any:
    if metric.kind == "counter":
        return ray.util.metrics.Counter(metric.name, metric.help, metric.labels)
    if metric.kind == "gauge":
        return ray.util.metrics.Gauge(metric.name, metric.help, metric.labels)
    return ray.util.metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
