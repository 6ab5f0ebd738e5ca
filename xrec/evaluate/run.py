"""Evaluate the explanations of held-out pairs: check what made them, draw, score, write."""

import logging
from collections.abc import Mapping

import pyarrow as pa

from xrec.config import EvaluateConfig, identity_of
from xrec.data.dataset import HeldOutPair
from xrec.data.splits import drawn_pairs
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate.evaluation import REPORT, write_evaluation
from xrec.evaluate.metrics import compute_metrics
from xrec.evaluate.scores import Coverage, score_pairs, with_references
from xrec.generate.loading import load_explainer, sources_of
from xrec.llm.source import public_name
from xrec.storage import Manifest, location_of, mismatch

logger = logging.getLogger("xrec")

Row = tuple[HeldOutPair, str]


def evaluate(
    config: EvaluateConfig,
    explanations: pa.Table,
    failed: pa.Table,
    manifests: Mapping[str, Manifest],
) -> Manifest:
    """Score explanations, write the evaluation, and return its manifest.

    `manifests` are those of the artifacts that are evaluated. Raises DataError if too few of the
    explanations have a reference.
    """
    explainer = load_explainer(sources_of(config), device=config.device, engine=config.engine)
    rows = with_references(explainer.dataset, explanations, failed, config.split)
    pairs = score_pairs(explainer, _draw(rows, config), config.decoding)
    coverage, location = Coverage.of(rows, explanations, failed), location_of(config, "evaluation")
    manifest = write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=coverage,
        sources=manifests,
        about=f"Project {public_name(config.workspace)}; language model "
        f"{public_name(config.llm.model)}; texts of {manifests['explanations'].created_at[:10]}.",
        config=identity_of(config),
        inputs={name: each.fingerprint for name, each in manifests.items()},
    )
    logger.info("%s", coverage.sentence)
    logger.info("%d pairs: %s", len(pairs), location / REPORT)
    return manifest


def _draw(rows: list[Row], config: EvaluateConfig) -> list[Row]:
    """Draw the rows to score; raises DataError if they belong to fewer than two users."""
    if len({pair.user_id for pair, _ in rows}) < 2:
        raise DataError(
            f"{len(rows)} explanations have a reference in split {config.split!r}, expected those "
            "of two users or more; backfill that split first "
            f"('pairs={{kind: split, split: {config.split}}}'), or choose the other one",
            code="too_few_references",
            key="split",
            saw=len(rows),
        )
    texts = dict(rows)
    return [(pair, texts[pair]) for pair in drawn_pairs(list(texts), config.max_pairs)]


def check_lineage(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> None:
    """Raise ArtifactMismatchError unless texts that are written now compare with the stored ones.

    Decoding and aspects matter only for a dataset of the sample, whose texts are also written with
    other users' vectors.
    """
    explanations, adapter = manifests["explanations"], manifests["adapter"].fingerprint
    uri = config.artifact("explanations")
    if explanations.inputs["adapter"] != adapter:
        raise ArtifactMismatchError(
            f"{uri}: made by adapter {explanations.inputs['adapter']}, but "
            f"{config.artifact('adapter')} is {adapter}; give the adapter that made them, or "
            "backfill again",
            code="another_adapter",
            key="adapter",
            saw=adapter,
        )
    if "planted.parquet" not in manifests["dataset"].files:
        return
    aspects, made = manifests.get("aspects"), explanations.inputs.get("aspects")
    stored = {"decoding": explanations.config["decoding"], "aspects": made}
    current = {
        "decoding": identity_of(config.decoding),
        "aspects": aspects and aspects.fingerprint,
    }
    if stored != current:
        raise mismatch(
            f"{uri}: the texts of shuffled pairs would be decoded differently:",
            stored,
            current,
            "give the decoding and the artifacts of the backfill",
        )
