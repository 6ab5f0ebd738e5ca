"""Job `evaluate`: explanations and their references in, metrics and a report out."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

from jobs.output import Output
from xrec.adapter.pairs import Pair
from xrec.backfill import read, read_failed
from xrec.checks import check_word_list
from xrec.config.evaluate import EvaluateConfig
from xrec.data.dataset import Dataset, HeldOutPair, held_out_pairs
from xrec.data.splits import drawn_pairs
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
from xrec.generate.choice import computation, settled_computation
from xrec.generate.explainer import Explainer
from xrec.generate.loading import Sources, load_explainer
from xrec.generate.scoring import (
    fitting_pairs,
    generated_texts,
    nll_own_and_shuffled,
    shuffled_pairs,
)
from xrec.graph.artifact import read_metrics
from xrec.storage import (
    Kind,
    Manifest,
    check_artifacts,
    differing_fields,
    location_of,
    manifest_of,
)

logger = logging.getLogger("xrec")

_ARTIFACTS: tuple[Kind, ...] = ("dataset", "graph", "adapter", "explanations")
_NUM_EXAMPLES = 20
_CHOSEN_BY = ("aspects", "cold_start")
"""Inputs of explanations beside those that belong to the adapter; evaluate reads no cold start."""

Row = tuple[HeldOutPair, str]
"""A held-out pair and the text that was generated for it."""


def output(config: EvaluateConfig, *, exact: bool = True) -> Output:
    """The evaluation that `config` asks for; see jobs.output."""
    return _output(config, _manifests(config), exact=exact)


def run(config: EvaluateConfig) -> Manifest:
    """Score the held-out explanations and return the manifest.

    If a run with the same settings and inputs is finished, nothing is done.
    Raises ArtifactMismatchError if the explanations are another adapter's, or were drawn by another
    decoding than texts with other users' vectors would be; DataError if none of them has a
    reference.
    """
    check_artifacts(config, *_ARTIFACTS, "evaluation")
    check_word_list(config.decoding.text.checks, config.storage)
    manifests = _manifests(config)
    _check_lineage(config, manifests)
    made = _output(config, manifests)
    if (done := made.done()) is not None:
        return done
    explainer = load_explainer_of(config)
    source = (config.artifact("explanations"), manifests["explanations"].version, config.storage)
    explanations = read(*source).to_table(columns=["user_id", "item_id", "explanation"])
    failed = read_failed(*source).to_table(columns=["user_id", "item_id", "reason"])
    rows = with_references(explainer.dataset, explanations, failed, config.split)
    pairs = score_pairs(explainer, rows, config)
    coverage = coverage_of(rows, failed)
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
        num_examples=_NUM_EXAMPLES,
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


def _output(
    config: EvaluateConfig, manifests: Mapping[str, Manifest], *, exact: bool = True
) -> Output:
    elsewhere = {"workspace", "storage", "evaluation", "aspects", *_ARTIFACTS}
    without_effect = {"device", "engine", "llm"}
    model = (config.llm, config.device, config.engine)
    computed = computation(*model, config.storage) if exact else settled_computation(*model)
    return Output(
        location_of(config, "evaluation"),
        "evaluation",
        {
            **config.model_dump(mode="json", exclude=elsewhere | without_effect),
            "computation": computed,
        },
        {name: manifest.fingerprint for name, manifest in manifests.items()},
        unchecked=() if computed else ("computation",),
    )


def load_explainer_of(config: EvaluateConfig) -> Explainer:
    """Load the job's model into this process; raises what `load_explainer` raises."""
    sources = Sources(
        dataset=config.artifact("dataset"),
        graph=config.artifact("graph"),
        adapter=config.artifact("adapter"),
        llm=config.llm,
        storage=config.storage,
        aspects=config.artifact("aspects"),
    )
    return load_explainer(sources, device=config.device, engine=config.engine)


def score_pairs(explainer: Explainer, rows: list[Row], config: EvaluateConfig) -> list[ScoredPair]:
    """Held-out pairs with their texts and their scores with the own and another user's vector.

    `rows` is what `with_references` returns. Both texts have passed the same rules, and one that
    was refused is "".
    """
    drawn = _draw(rows, config)
    pairs, texts = [pair for pair, _ in drawn], [text for _, text in drawn]
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], config.seed)
    ]
    fits = fitting_pairs(explainer, pairs)
    weighed = nll_own_and_shuffled(explainer, pairs, others, fits)
    shuffled = _shuffled_texts(explainer, pairs, others, fits, config)
    return [
        _scored(
            explainer,
            pair,
            text,
            nll_own=own,
            nll_shuffled=of_other,
            shuffled_explanation=shuffled.get(pair),
        )
        for pair, text, (own, of_other) in zip(pairs, texts, weighed, strict=True)
    ]


def _shuffled_texts(
    explainer: Explainer,
    pairs: list[HeldOutPair],
    others: list[int],
    fits: list[bool],
    config: EvaluateConfig,
) -> dict[HeldOutPair, str]:
    """Texts with another user's vector of a sample of the pairs, "" where there is none."""
    asked = drawn_pairs(pairs, config.max_shuffled_generations, seed=config.seed)
    with_other = dict(zip(pairs, others, strict=True))
    fitting = {pair for pair, fit in zip(pairs, fits, strict=True) if fit}
    written = [pair for pair in asked if pair in fitting]
    prompts = shuffled_pairs(written, [with_other[pair] for pair in written])
    texts = generated_texts(explainer, prompts, config.decoding, "texts with another user's vector")
    return {
        **dict.fromkeys(asked, ""),
        **{
            pair: text.text if text.failure is None else ""
            for pair, text in zip(written, texts, strict=True)
        },
    }


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


def coverage_of(rows: list[Row], failed: pa.Table) -> Coverage:
    """How many of the rows have a text, and why the others have none.

    `rows` is what `with_references` returns; `failed` has the columns user_id, item_id and reason.
    """
    without = {(pair.user_id, pair.item_id) for pair, text in rows if not text}
    reasons = Counter(
        row["reason"] for row in failed.to_pylist() if (row["user_id"], row["item_id"]) in without
    )
    return Coverage(len(rows) - len(without), dict(reasons))


def with_references(
    dataset: Dataset,
    explanations: pa.Table,
    failed: pa.Table,
    split: Literal["validation", "test"],
) -> list[Row]:
    """The split's explained pairs that the backfill has, by user and item, with their texts.

    The text of a pair that is among `failed` is "". `explanations` have the columns user_id,
    item_id and explanation, `failed` the first two. Pairs without a reference are left out, as are
    all those of users and items that `dataset` does not hold.
    """
    texts = {(row["user_id"], row["item_id"]): "" for row in failed.to_pylist()}
    texts |= {
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
    texts = dict(rows)
    return [
        (pair, texts[pair]) for pair in drawn_pairs(list(texts), config.max_pairs, seed=config.seed)
    ]


def _check_lineage(config: EvaluateConfig, manifests: dict[str, Manifest]) -> None:
    made_by, adapter = manifests["explanations"].inputs["adapter"], manifests["adapter"].fingerprint
    if made_by != adapter:
        raise ArtifactMismatchError(
            f"{config.artifact('explanations')}: made by adapter {made_by}, but "
            f"{config.artifact('adapter')} is {adapter}; give the adapter that made them, or "
            "backfill again"
        )
    if config.max_shuffled_generations == 0:
        return  # nothing is drawn beside them
    made = manifests["explanations"]
    inputs = {name: made.inputs[name] for name in _CHOSEN_BY if name in made.inputs}
    differences = differing_fields(
        {"decoding": made.config["decoding"], "inputs": inputs},
        {
            "decoding": config.decoding.model_dump(mode="json"),
            "inputs": {
                name: manifests[name].fingerprint for name in _CHOSEN_BY if name in manifests
            },
        },
    )
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ArtifactMismatchError(
            f"{config.artifact('explanations')}: their texts were drawn otherwise than those of "
            f"the shuffled pairs would be:\n{lines}\ngive the decoding and the artifacts of the "
            "backfill, or max_shuffled_generations=0"
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
