"""Job `evaluate`: explanations and their references in, metrics and a report out."""

import logging
from collections.abc import Mapping

from xrec.backfill import read, read_failed
from xrec.checks import check_word_list
from xrec.config import EvaluateConfig, identity_of
from xrec.data.dataset import HeldOutPair
from xrec.data.splits import drawn_pairs
from xrec.errors import ArtifactMismatchError, DataError
from xrec.jobs.output import Output
from xrec.llm.source import public_name
from xrec.storage import Kind, Manifest, check_artifacts, location_of, manifest_of, mismatch

logger = logging.getLogger("xrec")

_ARTIFACTS: tuple[Kind, ...] = ("dataset", "graph", "adapter", "explanations")
_Row = tuple[HeldOutPair, str]


def output(config: EvaluateConfig, *, exact: bool = True) -> Output:
    return _output(config, _manifests(config))


def run(config: EvaluateConfig) -> Manifest:
    """Score the held-out explanations, unless it is done; returns the manifest.

    Raises ArtifactMismatchError if the explanations are another adapter's, or were drawn by another
    decoding than texts with other users' vectors would be; DataError if none of them has a
    reference.
    """
    from xrec.evaluate.evaluation import REPORT, write_evaluation
    from xrec.evaluate.metrics import compute_metrics
    from xrec.evaluate.scores import Coverage, score_pairs, with_references
    from xrec.generate.loading import load_explainer, sources_of

    check_artifacts(config, *_ARTIFACTS, "evaluation")
    check_word_list(config.decoding.text.checks, config.storage)
    manifests = _manifests(config)
    _check_lineage(config, manifests)
    made = _output(config, manifests)
    if (done := made.done()) is not None:
        return done
    explainer = load_explainer(sources_of(config), device=config.device, engine=config.engine)
    source = (config.artifact("explanations"), manifests["explanations"].version, config.storage)
    explanations = read(*source).to_table(columns=["user_id", "item_id", "explanation", "kind"])
    failed = read_failed(*source).to_table(columns=["user_id", "item_id", "reason"])
    rows = with_references(explainer.dataset, explanations, failed, config.split)
    pairs = score_pairs(explainer, _draw(rows, config), config.decoding)
    coverage = Coverage.of(rows, explanations, failed)
    manifest = write_evaluation(
        made.location,
        pairs,
        compute_metrics(pairs, config),
        coverage=coverage,
        sources=manifests,
        about=f"Project {public_name(config.workspace)}; language model "
        f"{public_name(config.llm.model)}; texts of {manifests['explanations'].created_at[:10]}.",
        config=made.config,
        inputs=made.inputs,
    )
    logger.info("%s", coverage.sentence)
    logger.info("%d pairs: %s", len(pairs), made.location / REPORT)
    return manifest


def _manifests(config: EvaluateConfig) -> dict[str, Manifest]:
    manifests: dict[str, Manifest] = {name: manifest_of(config, name) for name in _ARTIFACTS}
    if "aspects" in manifests["adapter"].inputs:
        manifests["aspects"] = manifest_of(config, "aspects")
    return manifests


def _output(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Output:
    return Output(
        location_of(config, "evaluation"),
        "evaluation",
        identity_of(config),
        {name: manifest.fingerprint for name, manifest in manifests.items()},
    )


def _draw(rows: list[_Row], config: EvaluateConfig) -> list[_Row]:
    """The rows that are scored; raises DataError if they are of fewer than two users."""
    if len({pair.user_id for pair, _ in rows}) < 2:
        raise DataError(
            f"{len(rows)} explanations have a reference in split {config.split!r}, of fewer "
            f"than two users; backfill that split first ('pairs={{kind: split, split: "
            f"{config.split}}}'), or choose the other one",
            code="too_few_references",
            key="split",
            saw=len(rows),
        )
    texts = dict(rows)
    return [(pair, texts[pair]) for pair in drawn_pairs(list(texts), config.max_pairs)]


def _check_lineage(config: EvaluateConfig, manifests: dict[str, Manifest]) -> None:
    made_by, adapter = manifests["explanations"].inputs["adapter"], manifests["adapter"].fingerprint
    if made_by != adapter:
        raise ArtifactMismatchError(
            f"{config.artifact('explanations')}: made by adapter {made_by}, but "
            f"{config.artifact('adapter')} is {adapter}; give the adapter that made them, or "
            "backfill again",
            code="another_adapter",
            key="adapter",
            saw=adapter,
        )
    if "planted.parquet" not in manifests["dataset"].files:
        return  # nothing is drawn beside them
    made, aspects = manifests["explanations"], manifests.get("aspects")
    there = {"decoding": made.config["decoding"], "aspects": made.inputs.get("aspects")}
    here = {
        "decoding": identity_of(config.decoding),
        "aspects": aspects and aspects.fingerprint,
    }
    if there != here:
        raise mismatch(
            f"{config.artifact('explanations')}: their texts were drawn otherwise than those of "
            "the shuffled pairs would be:",
            there,
            here,
            "give the decoding and the artifacts of the backfill",
        )
