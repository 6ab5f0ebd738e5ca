"""Job `evaluate`: explanations and their references in, metrics and a report out. Composes generation and evaluation."""

import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.adapter.pairs import Pair
from xrec.backfill import read_explanations
from xrec.config import EvaluateConfig
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate import Lineage, ScoredPair, compute_metrics, flat_metrics, other_users, write_evaluation
from xrec.generate.explainer import Explainer, Sources, load_explainer
from xrec.graph.artifact import read_metrics
from xrec.llm.examples import explanation_nll
from xrec.progress import progress
from xrec.storage import Manifest, check_access, finished, open_location, read_manifest

logger = logging.getLogger("xrec")

_ARTIFACTS = ("dataset", "graph", "adapter", "explanations")
_Row = dict[str, Any]


def run(config: EvaluateConfig) -> Manifest:
    """Score the held-out explanations; returns the manifest that is there already if this very run is finished.

    Raises ArtifactMismatchError if the explanations are another adapter's, DataError if none of them has a reference.
    """
    for name in (*_ARTIFACTS, "evaluation"):
        check_access(open_location(config.artifact(name), config.storage), config.storage)
    manifests = {name: read_manifest(open_location(config.artifact(name), config.storage), name) for name in _ARTIFACTS}  # type: ignore[arg-type]
    _check_lineage(config, manifests)
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    run_config = config.model_dump(mode="json", exclude={"workspace", "storage", "evaluation", "device", "batch_size", "llm", *_ARTIFACTS})
    output = open_location(config.artifact("evaluation"), config.storage)
    done = finished(output, "evaluation", run_config, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    sources = Sources(
        dataset=config.artifact("dataset"),
        graph=config.artifact("graph"),
        adapter=config.artifact("adapter"),
        llm=config.llm,
        storage=config.storage,
    )
    explainer = load_explainer(sources, device=config.device, batch_size=config.batch_size)
    pairs = score_pairs(explainer, read_explanations(open_location(config.artifact("explanations"), config.storage)), config)
    metrics = compute_metrics(pairs, config)
    lineage = Lineage(sources=manifests, adapter_history=_adapter_history(config), graph_history=_graph_history(config))
    manifest = write_evaluation(output, pairs, metrics, lineage=lineage, config=run_config, inputs=inputs, num_examples=config.num_examples)
    logger.info("%d pairs, %d metrics: %s", len(pairs), len(flat_metrics(metrics)), output / "report.html")
    return manifest


def score_pairs(explainer: Explainer, explanations: pa.Table, config: EvaluateConfig) -> list[ScoredPair]:
    """Held-out pairs with what was generated for them, their NLL under their own and another user's vector, and its text."""
    rows = _draw(_with_references(explainer.dataset, explanations, config.split), config)
    others = [explainer.dataset.user_index(user) for user in other_users([row["user_id"] for row in rows], config.seed)]
    own = [Pair(row["user_index"], row["item_index"]) for row in rows]
    shuffled = [Pair(pair.user_index, pair.item_index, other) for pair, other in zip(own, others, strict=True)]
    references = [row["reference"] for row in rows]
    nll_own = _nll(explainer, own, references, config.batch_size, "own vector")
    nll_shuffled = _nll(explainer, shuffled, references, config.batch_size, "another user's vector")
    texts = _generate(explainer, shuffled[: config.max_shuffled_generations], config)
    return [
        ScoredPair(
            user_id=row["user_id"],
            item_id=row["item_id"],
            reference=row["reference"],
            explanation=row["explanation"],
            nll_own=nll_own[index],
            nll_shuffled=nll_shuffled[index],
            shuffled_explanation=texts.get(index),
            aspect=row.get("aspect"),
            aspects=tuple(row["aspects"]) if row.get("aspects") else None,
        )
        for index, row in enumerate(rows)
    ]


def _with_references(dataset: Dataset, explanations: pa.Table, split: str) -> list[_Row]:
    """Explained pairs of the split that were generated too, by user and item, with planted aspects where there are any.

    Explanations without a reference are passed over; those of users and items of a cold start, which `dataset` lacks, have none.
    """
    references = {(row["user_index"], row["item_index"]): row for row in dataset.explanations.to_pylist() if row["split"] == split}
    planted = {(row["user_index"], row["item_index"]): row for row in dataset.planted.to_pylist()} if dataset.planted is not None else {}
    rows = []
    for row in explanations.to_pylist():
        key = (dataset.user_indices.get(row["user_id"], -1), dataset.item_indices.get(row["item_id"], -1))
        if key in references:
            known = planted.get(key, {})
            rows.append(
                {
                    **row,
                    "user_index": key[0],
                    "item_index": key[1],
                    "reference": references[key]["explanation"],
                    "aspect": known.get("aspect"),
                    "aspects": known.get("aspects"),
                }
            )
    return sorted(rows, key=lambda row: (row["user_index"], row["item_index"]))


def _draw(rows: list[_Row], config: EvaluateConfig) -> list[_Row]:
    if len({row["user_id"] for row in rows}) < 2:
        raise DataError(
            f"{len(rows)} explanations have a reference in split {config.split!r}, of fewer than two users; backfill that split first "
            "(pairs.kind=split), or choose the other one"
        )
    chosen = np.random.default_rng(config.seed).permutation(len(rows))[: config.max_pairs]
    return [rows[index] for index in sorted(chosen)]


def _nll(explainer: Explainer, pairs: list[Pair], references: list[str], batch_size: int, description: str) -> list[float]:
    examples = [explainer.pairs.example(pair, reference) for pair, reference in zip(pairs, references, strict=True)]
    scored = explanation_nll(explainer.model, examples, batch_size)
    by_index = dict(progress(scored, f"NLL, {description}", len(examples)))
    return [by_index[index] for index in range(len(examples))]


def _generate(explainer: Explainer, pairs: list[Pair], config: EvaluateConfig) -> dict[int, str]:
    prompts = [explainer.pairs.prompt(pair) for pair in pairs]
    generated = progress(explainer.explain(prompts, config.decoding), "texts with another user's vector", len(prompts))
    return {explanation.index: explanation.text for explanation in generated}


def _check_lineage(config: EvaluateConfig, manifests: dict[str, Manifest]) -> None:
    made_by, adapter = manifests["explanations"].inputs["adapter"], manifests["adapter"].fingerprint
    if made_by != adapter:
        raise ArtifactMismatchError(
            f"{config.artifact('explanations')}: made by adapter {made_by}, but {config.artifact('adapter')} is {adapter}; "
            "give the adapter that made them, or backfill again"
        )


def _adapter_history(config: EvaluateConfig) -> list[dict[str, Any]]:
    location = open_location(config.artifact("adapter"), config.storage) / "history.json"
    if not location.is_file():  # a log, no content: an adapter that was saved or published goes without it
        return []
    history: list[dict[str, Any]] = json.loads(location.read_text())
    return history


def _graph_history(config: EvaluateConfig) -> list[dict[str, Any]]:
    return read_metrics(open_location(config.artifact("graph"), config.storage))


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("evaluate")
