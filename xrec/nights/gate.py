"""The gate: decide from figures and their bounds whether a finished run may be published.

`rows`, `coverage` and `failed` cover all rows, `recall`, `own_profile` and `own_vector` the run's
inputs, and the others a sample. A figure with too few rows or nothing to compare with is unknown,
and passes. One that could not be computed is NaN, and does not pass.

The config's bounds are absolute. Once 14 versions were published, the last 14 tighten the bound of
each figure to their median, plus or minus max(4 MAD, a floor). Versions that were rolled back do
not count. If the models were trained since the published version, the figures that compare with it
keep their absolute bounds. docs/night.md describes what each figure detects.
"""

import json
import os
from itertools import islice
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np

from xrec.backfill import resolve
from xrec.backfill.plan import VERDICT
from xrec.bulk import BulkRun, Survey, added
from xrec.config import BackfillConfig, RecommendedPairs
from xrec.data import read_dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, GateError
from xrec.nights.claims import costs_of, judged_claims
from xrec.nights.figures import LEAST_ROWS, Values, drift, own_profiles, own_vectors, text_shares
from xrec.nights.sample import Sample, sample_of
from xrec.storage import (
    Manifest,
    find_manifest,
    fingerprint_of,
    location_of,
    open_location,
)
from xrec.text import endpoint_key

_OWN = ("own_item", "own_user", "own_profile", "own_vector")
_KEPT = ("rows", "users", "items", "pairs")
_AT_LEAST = frozenset(
    {"coverage", "named", "claims", "distinct", "catalogue", "recall", *_KEPT, *_OWN}
)
_CONTINUITY = frozenset(
    {"pairs", "recall", "length", "distinct", "aspects", "rewritten", "own_item", "own_user"}
)
"""Figures that compare with the published version, and change when the models do."""
_NOT_OF_TEXTS = frozenset({"frequent", "catalogue", "recall", "coverage", "failed", *_KEPT})
"""If only these stop a run, later runs carry its texts over."""
_NUM_NIGHTS, _NUM_MADS = 14, 4
_FLOOR = 0.1
_FLOORS = {"failed": 0.03, "frequent": 0.05, "commonest": 0.05, "recall": 0.15}
_FLOORS |= dict.fromkeys(("items", "catalogue"), 0.2)  # noisy in small shops
"""The smallest distance from the median that is a reason to stop, by figure."""


class GateFigure(NamedTuple):
    """A figure with its bound; None if the value is unknown or there is no bound.

    The value is NaN if it could not be computed.
    """

    name: str
    value: float | None
    bound: float | None

    @property
    def passes(self) -> bool:
        """Whether the value is within the bound, or one of them is None."""
        if self.value is None or self.bound is None:
            return True
        return self.value >= self.bound if self.name in _AT_LEAST else self.value <= self.bound

    def beside(self, earlier: list[float]) -> "GateFigure":
        """Return the figure with the bound that its values of earlier nights tighten."""
        if self.bound is None or len(earlier) < _NUM_NIGHTS:
            return self
        median = float(np.median(earlier))
        mad = float(np.median(np.abs(np.array(earlier) - median)))
        distance = max(_NUM_MADS * mad, _FLOORS.get(self.name, _FLOOR))
        is_least = self.name in _AT_LEAST
        bound = (
            max(self.bound, median - distance) if is_least else min(self.bound, median + distance)
        )
        return self._replace(bound=bound)

    def __str__(self) -> str:
        value = "not known" if self.value is None else f"{self.value:.3f}"
        side = "at least" if self.name in _AT_LEAST else "at most"
        bound = "no bound" if self.bound is None else f"{side} {self.bound:g}"
        return f"{'   ' if self.passes else 'NO '}{self.name:12}{value:>10}  ({bound})"


class Gate:
    """The check of a finished run just before it is published.

    Attributes:
        force: why the run is published even if it does not pass; empty if it must pass.
        metrics: the manifest's metrics about the gate.
    """

    def __init__(self, config: BackfillConfig, run: BulkRun, force: str = ""):
        self.force = force
        self.metrics: dict[str, Any] = {"gate": {"forced": force}} if force else {}
        self._config, self._run = config, run

    def check(self) -> dict[str, float]:
        """Write the verdict into the run's folder, and return the costs of the figures.

        Raises GateError if the run does not pass.
        """
        if self._config.gate is None:
            return {}
        sample = sample_of(self._run, num_items_of(self._config))
        figures, costs = judge(self._config, self._run, sample)
        stopped_by = [figure.name for figure in figures if not figure.passes]
        passed = not stopped_by
        verdict = {
            "passed": passed,
            "stopped_by": stopped_by,
            "keeps_texts": {*stopped_by} <= _NOT_OF_TEXTS,
            "pass_number": len(self._run.passes()) - 1,
            "beside_version": sample.version,
            "was_trained": _was_trained(self._config, sample),
            "figures": {
                f.name: None if f.value is None or isnan(f.value) else f.value for f in figures
            },
            "bounds": {figure.name: figure.bound for figure in figures},
        }
        name = f"{VERDICT}{fingerprint_of(verdict)}.json"
        (self._run.folder / name).create_bytes(json.dumps(verdict, indent=2).encode())
        self.metrics = {"gate": {**verdict, **self.metrics.get("gate", {})}}
        if not passed and not self.force:
            refusal = self._refusal(figures)
            refusal.metrics = self.metrics
            if costs:
                total = added(costs_of(self._run), costs)
                refusal.metrics = {**self.metrics, "costs": total}
            raise refusal
        return costs

    def _refusal(self, figures: list[GateFigure]) -> GateError:
        shown = "\n".join(f"  {figure}" for figure in figures)
        failed = [f"{count} {why}" for why, count in Survey(self._run).summary.failed.items()]
        return GateError(
            f"{self._run.output}: the run is finished but did not pass its gate, so it stays a "
            f"candidate:\n{shown}\npairs without a text: {', '.join(failed) or 'none'}\nInspect it "
            "(xrec publish CONFIG --look). Then fix the cause, change a bound (gate.NAME), or "
            "publish it anyway (xrec publish CONFIG --force WHY)",
            code="gate_not_passed",
            key="gate",
            saw=tuple(self.metrics["gate"]["stopped_by"]),
        )


def make_gate(config: BackfillConfig, run: BulkRun, force: str = "") -> Gate | None:
    """Return the gate of a run; None if the config turns it off and `force` is empty.

    Raises ConfigError if the judge's key is not set.
    """
    if config.gate is None and not force:
        return None
    if config.judge is not None:
        endpoint_key(config.judge, os.environ)  # missing keys are found before any text is written
    return Gate(config, run, force)


def check_kept(config: BackfillConfig, dataset: Manifest) -> None:
    """Raise GateError if a night's dataset lost too much of the one that it extends."""
    least = (config.gate or {}).get("kept") or 0
    kept = dataset.metrics.get("kept", {})
    if any(share < least for share in kept.values()):
        shares = ", ".join(f"{share:.0%} of the {table}" for table, share in kept.items())
        raise GateError(
            f"the new dataset kept only {shares} of the previous one; expected at least "
            f"{least:.0%} of each. Nothing is published: fix the raw files and refresh again, or, "
            "if they are correct, set backfill.gate.kept=null",
            code="rows_lost",
            key="backfill.gate.kept",
            saw=kept,
        )


def judge(
    config: BackfillConfig, run: BulkRun, sample: Sample
) -> tuple[list[GateFigure], dict[str, float]]:
    """Return all figures of a run with their bounds, and their costs.

    Slow ones are only computed if they have a bound. Raises what `judged_claims` raises.
    """
    summary, num_rows = Survey(run).summary, run.record.num_rows
    num_failed = run.format.faults(summary.failed).total()
    bounds = {"failed": config.max_failed_share, **(config.gate or {})}
    values: Values = {
        **sample.shop,
        "coverage": summary.num_ok / num_rows if num_rows >= LEAST_ROWS else None,
        "failed": num_failed / num_rows,
        **text_shares(sample.new),
        **drift(sample.new, sample.old, is_alike=sample.is_alike),
    }
    if config.writer != "adapter":  # no vector is read
        bounds["own_vector"] = None
    slow = {"recall": _recall, "own_profile": _own_profile, "own_vector": _own_vector}
    for name, compute in slow.items():
        values[name] = compute(config, sample) if bounds.get(name) is not None else None
    is_judged = bounds.get("claims") is not None
    values["claims"], costs = judged_claims(config, run, sample.new) if is_judged else (None, {})
    was_trained = _was_trained(config, sample)
    if was_trained and bounds.get("pairs") is not None:
        bounds["pairs"] = bounds.get("pairs_trained")
    manifests = () if sample.table is None else sample.table.log.history()
    verdicts = (manifest.metrics.get("gate", {}) for manifest in manifests)
    history = list(islice((v for v in verdicts if "figures" in v), _NUM_NIGHTS))
    figures = []
    for name, value in values.items():
        figure = GateFigure(name, value, bounds.get(name))
        if not (was_trained and name in _CONTINUITY):
            known = (
                verdict["figures"].get(name)
                for verdict in history
                if not (verdict.get("was_trained") and name in _CONTINUITY)
            )
            figure = figure.beside([value for value in known if value is not None])
        figures.append(figure)
    return figures, costs


def num_items_of(config: BackfillConfig) -> int:
    """Return the number of items in the config's dataset, without those that are gone."""
    dataset = read_dataset(location_of(config, "dataset"))
    return dataset.num_items - len(dataset.lost_items)


def _was_trained(config: BackfillConfig, sample: Sample) -> bool:
    """Return whether another model wrote the published texts, or the graph was trained since."""
    if sample.table is None or not sample.is_alike:
        return sample.table is not None
    before, graph = sample.made_from.get("graph"), _graph(config, config.artifact("graph"))
    if before is None or graph is None or resolve(config, before) == config.artifact("graph"):
        return False
    return bool(graph.config.get("training", {}).get("num_epochs", 1))


def _recall(config: BackfillConfig, sample: Sample) -> float | None:
    """Return the graph's recall on held-out interactions, relative to the published graph's."""
    if not isinstance(config.pairs, RecommendedPairs) and config.writer != "adapter":
        return None
    before, graph = sample.made_from.get("graph"), _graph(config, config.artifact("graph"))
    if graph is None or before is None:
        return None
    try:
        earlier = _graph(config, resolve(config, before))
    except ArtifactMismatchError:  # an older xrec's
        return None
    if earlier is None:
        return nan
    now, then = (_held_out_recall(manifest) for manifest in (graph, earlier))
    return now / then if now is not None and then else None


def _graph(config: BackfillConfig, uri: str) -> Manifest | None:
    return find_manifest(open_location(uri, config.storage), "graph")


def _held_out_recall(graph: Manifest) -> float | None:
    """Return Recall@20 over all held-out users; None if they are fewer than `LEAST_ROWS`."""
    reports = [graph.metrics.get(split, {}) for split in ("validation", "test")]
    counts = [report.get("num_users", 0) for report in reports]
    if sum(counts) < LEAST_ROWS:
        return None
    sums = (n * report["recall@20"] for n, report in zip(counts, reports, strict=True) if n)
    return float(sum(sums) / sum(counts))


def _own_profile(config: BackfillConfig, sample: Sample) -> float | None:
    """Return the figure; None if the published version's dataset is the same."""
    dataset = read_dataset(location_of(config, "dataset"))
    if "dataset" not in sample.made_from:
        return None
    try:
        uri = resolve(config, sample.made_from["dataset"])
        earlier = read_dataset(open_location(uri, config.storage))
    except ArtifactNotFoundError:
        return nan
    except ArtifactMismatchError:  # an older xrec's
        return None
    is_same = earlier.manifest.fingerprint == dataset.manifest.fingerprint
    return None if is_same else own_profiles(dataset, earlier)


def _own_vector(config: BackfillConfig, sample: Sample) -> float | None:
    from xrec.graph.artifact import read_graph  # imports torch

    dataset, graph = (location_of(config, name) for name in ("dataset", "graph"))
    return own_vectors(read_dataset(dataset), read_graph(graph))
