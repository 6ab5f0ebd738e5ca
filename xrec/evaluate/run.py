"""Evaluate a model: explain held-out pairs, score the texts, write the evaluation."""

import logging
from collections.abc import Mapping

from xrec.config import EndpointConfig, EvaluateConfig, identity_of_texts
from xrec.data import drawn_pairs, held_out_pairs
from xrec.errors import DataError
from xrec.evaluate.evaluation import REPORT, verdict, write_evaluation
from xrec.evaluate.metrics import compute_metrics
from xrec.evaluate.scores import score_pairs
from xrec.llm.source import public_name
from xrec.storage import Manifest, location_of
from xrec.text.writers import load_explainer, writer_key, writer_replies

logger = logging.getLogger("xrec")


def evaluate(
    config: EvaluateConfig, manifests: Mapping[str, Manifest], inputs: Mapping[str, str]
) -> Manifest:
    """Explain and score held-out pairs, write the evaluation, and return its manifest.

    `manifests` are those of the evaluated artifacts, by name, and `inputs` the fingerprints of all
    that is evaluated. Raises DataError if fewer than two users have held-out pairs.
    """
    replies = writer_replies(config, "evaluation")
    explainer = load_explainer(config, "auto", writer_key(config), replies)
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
    if explainer.graph is None:
        logger.info("%s", verdict(None, has_vectors=False))
    pairs, coverage = score_pairs(explainer, drawn, config.decoding)
    if replies is not None:
        replies.flush()
    location = location_of(config, "evaluation")
    manifest = write_evaluation(
        location,
        pairs,
        compute_metrics(pairs, config),
        coverage=coverage,
        sources=manifests,
        about=f"Project {public_name(config.workspace)}; {_written_by(config, manifests)}.",
        config=identity_of_texts(config),
        inputs=inputs,
    )
    logger.info("%s", coverage.sentence)
    logger.info("%d pairs: %s", len(pairs), location / REPORT)
    return manifest


def _written_by(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> str:
    if isinstance(config.engine, EndpointConfig):
        return f"endpoint's model {config.engine.model}"
    assert config.llm is not None  # otherwise there is nothing to load
    model = f"language model {public_name(config.llm.model)}"
    adapter = manifests.get("adapter")
    return model if adapter is None else f"{model}; adapter of {adapter.created_at[:10]}"
