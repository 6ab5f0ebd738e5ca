"""Job `evaluate`: explanations and their references in, metrics and a report out."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from jobs.explainer import load_explainer_here
from jobs.output import Output
from xrec.adapter.pairs import Pair
from xrec.backfill import read, read_failed
from xrec.checks import check_word_list
from xrec.config.evaluate import EvaluateConfig
from xrec.data.dataset import Dataset
from xrec.data.held_out import HeldOutPair, held_out_pairs
from xrec.data.titles import composed
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate import (
    Coverage,
    Lineage,
    ScoredPair,
    compute_metrics,
    flat_metrics,
    other_users,
    write_evaluation,
)
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import nll_own_and_shuffled, shuffled_pairs, usable_texts
from xrec.graph.artifact import read_metrics
from xrec.storage import Kind, Manifest, check_artifacts, location_of, manifest_of

logger = logging.getLogger("xrec")

_ARTIFACTS: tuple[Kind, ...] = ("dataset", "graph", "adapter", "explanations")
Row = tuple[HeldOutPair, str]
"""A held-out pair and the text that was generated for it."""


def output(config: EvaluateConfig, *, exact: bool = True) -> Output:
    """The evaluation that `config` asks for; see jobs.output."""
    return _output(config, _manifests(config))


def run(config: EvaluateConfig) -> Manifest:
    """Score the held-out explanations and return the manifest.

    If a run with the same settings and inputs is finished, nothing is done.
    Raises ArtifactMismatchError if the explanations are another adapter's, DataError if none of
    them has a reference.
    """
    check_artifacts(config, *_ARTIFACTS, "evaluation")
    check_word_list(config.decoding.text.checks, config.storage)
    manifests = _manifests(config)
    _check_lineage(config, manifests)
    made = _output(config, manifests)
    if (done := made.done()) is not None:
        return done
    explainer = _explainer(config)
    source = (config.artifact("explanations"), manifests["explanations"].version, config.storage)
    explanations = read(*source).to_table(columns=["user_id", "item_id", "explanation"])
    failed = read_failed(*source).to_table(columns=["user_id", "item_id", "reason"])
    explained = with_references(explainer.dataset, explanations, config.split)
    pairs = score_pairs(explainer, explained, config)
    coverage = coverage_of(explainer.dataset, explained, failed, config.split)
    metrics = compute_metrics(pairs, config)
    lineage = Lineage(
        sources=manifests,
        adapter_history=_adapter_history(config),
        graph_history=_graph_history(config),
    )
    manifest = write_evaluation(
        made.location,
        pairs,
        metrics,
        coverage=coverage,
        lineage=lineage,
        config=made.config,
        inputs=made.inputs,
        num_examples=config.num_examples,
    )
    logger.info("%s", coverage.sentence)
    logger.info(
        "%d pairs, %d metrics: %s",
        len(pairs),
        len(flat_metrics(metrics)),
        made.location / "report.html",
    )
    return manifest


def _manifests(config: EvaluateConfig) -> dict[str, Manifest]:
    manifests: dict[str, Manifest] = {name: manifest_of(config, name) for name in _ARTIFACTS}
    if "aspects" in manifests["adapter"].inputs:
        manifests["aspects"] = manifest_of(config, "aspects")
    return manifests


def _output(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Output:
    elsewhere = {"workspace", "storage", "evaluation", "aspects", "ranker", *_ARTIFACTS}
    without_effect = {"device", "batch_size", "engine", "llm"}
    return Output(
        location_of(config, "evaluation"),
        "evaluation",
        config.model_dump(mode="json", exclude=elsewhere | without_effect),
        {name: manifest.fingerprint for name, manifest in manifests.items()},
    )


def _explainer(config: EvaluateConfig) -> Explainer:
    ranks = config.decoding.num_candidates > 1
    return load_explainer_here(config, ranker=config.artifact("ranker") if ranks else None)


def score_pairs(
    explainer: Explainer, explained: list[Row], config: EvaluateConfig
) -> list[ScoredPair]:
    """Held-out pairs with their texts and their scores with the own and another user's vector.

    `explained` is what `with_references` returns. Both texts have passed the same rules: a pair
    whose own text was refused is not there, and a refused text with another user's vector is None.
    """
    rows = _draw(explained, config)
    pairs, texts = [pair for pair, _ in rows], [text for _, text in rows]
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], config.seed)
    ]
    nll_own, nll_shuffled = nll_own_and_shuffled(explainer, pairs, others)
    chosen = shuffled_pairs(pairs, others)[: config.max_shuffled_generations]
    shuffled_texts = dict(
        enumerate(
            usable_texts(explainer, chosen, config.decoding, "texts with another user's vector")
        )
    )
    return [
        _scored(
            explainer,
            pair,
            texts[index],
            nll_own=nll_own[index],
            nll_shuffled=nll_shuffled[index],
            shuffled_explanation=shuffled_texts.get(index),
        )
        for index, pair in enumerate(pairs)
    ]


def _scored(explainer: Explainer, pair: HeldOutPair, text: str, **scores: Any) -> ScoredPair:
    said = explainer.pairs.texts(Pair(pair.user_index, pair.item_index))
    titles, title = explainer.pairs.titles, said.item_title
    context = (said.user_profile, said.item_profile)
    return ScoredPair(
        user_id=pair.user_id,
        item_id=pair.item_id,
        reference=pair.reference,
        explanation=text,
        aspect=pair.aspect,
        aspects=pair.aspects,
        item_title=title,
        names_item=bool(titles.own_spans(composed(text), title)) if title else None,
        other_title=titles.other_title(composed(text), title, context),
        reference_names_item=(
            bool(titles.own_spans(composed(pair.reference), title)) if title else None
        ),
        **scores,
    )


def coverage_of(
    dataset: Dataset, explained: list[Row], failed: pa.Table, split: Literal["validation", "test"]
) -> Coverage:
    """How many of the split's explained pairs are `explained` and how many are among `failed`.

    `explained` is what `with_references` returns; `failed` has the columns user_id, item_id and
    reason. Rows of other pairs are not counted.
    """
    held_out = {(pair.user_id, pair.item_id) for pair in held_out_pairs(dataset, split)}
    reasons = Counter(
        row["reason"] for row in failed.to_pylist() if (row["user_id"], row["item_id"]) in held_out
    )
    return Coverage(len(explained), dict(reasons))


def with_references(
    dataset: Dataset, explanations: pa.Table, split: Literal["validation", "test"]
) -> list[Row]:
    """The split's explained pairs that have a generated text, by user and item, with that text.

    `explanations` have the columns user_id, item_id and explanation. Those without a reference are
    left out, as are all those of users and items that `dataset` does not hold.
    """
    texts = {
        (row["user_id"], row["item_id"]): row["explanation"] for row in explanations.to_pylist()
    }
    return [
        (pair, texts[key])
        for pair in held_out_pairs(dataset, split)
        if (key := (pair.user_id, pair.item_id)) in texts
    ]


def _draw(rows: list[Row], config: EvaluateConfig) -> list[Row]:
    if len({pair.user_id for pair, _ in rows}) < 2:
        raise DataError(
            f"{len(rows)} explanations have a reference in split {config.split!r}, of fewer "
            f"than two users; backfill that split first ('pairs={{kind: split, split: "
            f"{config.split}}}'), or choose the other one"
        )
    chosen = np.random.default_rng(config.seed).permutation(len(rows))[: config.max_pairs]
    return [rows[index] for index in sorted(chosen)]


def _check_lineage(config: EvaluateConfig, manifests: dict[str, Manifest]) -> None:
    made_by, adapter = manifests["explanations"].inputs["adapter"], manifests["adapter"].fingerprint
    if made_by != adapter:
        raise ArtifactMismatchError(
            f"{config.artifact('explanations')}: made by adapter {made_by}, but "
            f"{config.artifact('adapter')} is {adapter}; give the adapter that made them, or "
            "backfill again"
        )


def _adapter_history(config: EvaluateConfig) -> list[dict[str, Any]]:
    location = location_of(config, "adapter") / "history.json"
    # The history is a log and no content: an adapter that was saved or published has none.
    if not location.is_file():
        return []
    history: list[dict[str, Any]] = json.loads(location.read_text())
    return history


def _graph_history(config: EvaluateConfig) -> list[dict[str, Any]]:
    return read_metrics(location_of(config, "graph"))


if __name__ == "__main__":
    from jobs.command.commands import run_job

    run_job("evaluate")
