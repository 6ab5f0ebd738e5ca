"""Evaluate a model: explain held-out pairs, score the texts, write the evaluation."""

import logging
from collections.abc import Mapping

from xrec.config import EvaluateConfig, identity_of
from xrec.data import drawn_pairs, held_out_pairs
from xrec.errors import DataError
from xrec.evaluate.evaluation import REPORT, write_evaluation
from xrec.evaluate.metrics import compute_metrics
from xrec.evaluate.scores import score_pairs
from xrec.generate.loading import load_explainer, sources_of
from xrec.llm.source import public_name
from xrec.storage import Manifest, location_of

logger = logging.getLogger("xrec")


def evaluate(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Manifest:
    """Explain and score held-out pairs, write the evaluation, and return its manifest.

    `manifests` are those of the evaluated artifacts, by name. Raises DataError if fewer than two
    users have held-out pairs.
    """
    explainer = load_explainer(sources_of(config), device="auto", engine=config.engine)
    held_out = held_out_pairs(explainer.dataset, "test")
    if len({pair.user_id for pair in held_out}) < 2:
        raise DataError(
            f"split test has {len(held_out)} explained pairs; expected pairs of at least two "
            "users: raise prepare.splits.test",
            code="too_few_references",
            key="prepare.splits.test",
            saw=len(held_out),
        )
    drawn = drawn_pairs(held_out, config.max_pairs)
    pairs, coverage = score_pairs(explainer, drawn, config.decoding)
    location = location_of(config, "evaluation")
    manifest = write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=coverage,
        sources=manifests,
        about=f"Project {public_name(config.workspace)}; language model "
        f"{public_name(config.llm.model)}; adapter of {manifests['adapter'].created_at[:10]}.",
        config=identity_of(config),
        inputs={name: each.fingerprint for name, each in manifests.items()},
    )
    logger.info("%s", coverage.sentence)
    logger.info("%d pairs: %s", len(pairs), location / REPORT)
    return manifest
