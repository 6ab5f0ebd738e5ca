"""The gate: decide from figures and their bounds whether a finished run may be published.

`coverage` and `failed` cover all rows, `own_profile` and `own_vector` the run's inputs, and the
others a sample. A figure with too few rows or nothing to compare with is unknown, and passes.
docs/night.md describes what each figure detects.
"""

import json
from typing import Any, NamedTuple

from xrec.backfill import resolve
from xrec.bulk import BulkRun, Survey
from xrec.config import BackfillConfig
from xrec.data import read_dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, GateError
from xrec.nights.figures import LEAST_ROWS, Values, drift, own_profiles, own_vectors, text_shares
from xrec.nights.sample import Sample, sample_of
from xrec.storage import Manifest, fingerprint_of, location_of, open_location

_OWN = ("own_item", "own_user", "own_profile", "own_vector")
_AT_LEAST = frozenset({"coverage", "named", "distinct", *_OWN})


class GateFigure(NamedTuple):
    """A figure with its bound; None if the value is unknown or there is no bound."""

    name: str
    value: float | None
    bound: float | None

    @property
    def passes(self) -> bool:
        """Whether the value is within the bound, or one of them is None."""
        if self.value is None or self.bound is None:
            return True
        return self.value >= self.bound if self.name in _AT_LEAST else self.value <= self.bound

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

    def check(self) -> None:
        """Write the verdict into the run's folder; raise GateError if the run does not pass."""
        if self._config.gate is None:
            return
        sample = sample_of(self._run)
        figures = judge(self._config, self._run, sample)
        passed = all(figure.passes for figure in figures)
        verdict = {
            "passed": passed,
            "pass_number": len(self._run.passes()) - 1,
            "beside_version": sample.version,
            "figures": {figure.name: figure.value for figure in figures},
            "bounds": {figure.name: figure.bound for figure in figures},
        }
        name = f"gate-{fingerprint_of(verdict)}.json"
        (self._run.folder / name).create_bytes(json.dumps(verdict, indent=2).encode())
        self.metrics = {"gate": {**verdict, **self.metrics.get("gate", {})}}
        if not passed and not self.force:
            refusal = self._refusal(figures)
            refusal.metrics = self.metrics
            raise refusal

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
            saw=tuple(figure.name for figure in figures if not figure.passes),
        )


def make_gate(config: BackfillConfig, run: BulkRun, force: str = "") -> Gate | None:
    """Return the gate of a run; None if the config turns it off and `force` is empty."""
    return None if config.gate is None and not force else Gate(config, run, force)


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


def judge(config: BackfillConfig, run: BulkRun, sample: Sample) -> list[GateFigure]:
    """Return all figures of a run with their bounds; compute slow ones only if bounded."""
    summary, num_rows = Survey(run).summary, run.record.num_rows
    num_failed = run.format.faults(summary.failed).total()
    bounds = {"failed": config.max_failed_share, **(config.gate or {})}
    values: Values = {
        "coverage": summary.num_ok / num_rows if num_rows >= LEAST_ROWS else None,
        "failed": num_failed / num_rows,
        **text_shares(sample.new),
        **drift(sample.new, sample.old, is_alike=sample.is_alike),
        "own_profile": None,
        "own_vector": None,
    }
    if config.writer == "sentences":  # every text is plain
        values["plain"] = None
    if config.writer != "adapter":  # no vector is read
        bounds["own_vector"] = None
    if bounds.get("own_profile") is not None:
        values["own_profile"] = _own_profile(config, sample)
    if bounds.get("own_vector") is not None:
        values["own_vector"] = _own_vector(config)
    return [GateFigure(name, value, bounds.get(name)) for name, value in values.items()]


def _own_profile(config: BackfillConfig, sample: Sample) -> float | None:
    """Return the figure; None if the published version's dataset is the same, or is gone."""
    dataset = read_dataset(location_of(config, "dataset"))
    if not sample.dataset:
        return None
    try:
        location = open_location(resolve(config, sample.dataset), config.storage)
        earlier = read_dataset(location)
    except (ArtifactNotFoundError, ArtifactMismatchError):  # deleted, or an older xrec's
        return None
    is_same = earlier.manifest.fingerprint == dataset.manifest.fingerprint
    return None if is_same else own_profiles(dataset, earlier)


def _own_vector(config: BackfillConfig) -> float | None:
    from xrec.graph.artifact import read_graph  # imports torch

    dataset, graph = (location_of(config, name) for name in ("dataset", "graph"))
    return own_vectors(read_dataset(dataset), read_graph(graph))
