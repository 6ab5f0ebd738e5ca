"""The job on s3://: metrics against the tables they come from, and pairs without texts."""

import json
import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

import jobs.evaluate
from xrec.adapter.pairs import Pair
from xrec.backfill import read_explanations, read_failed
from xrec.config.evaluate import EvaluateConfig
from xrec.data import read_dataset
from xrec.data.dataset import held_out_pairs
from xrec.errors import DataError
from xrec.evaluate.scores import SCORED_PAIRS, ScoredPair, score_pairs, with_references
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer, sources_of
from xrec.storage import Location, read_table


def _evaluation(location: Location) -> tuple[list[ScoredPair], dict[str, float]]:
    """The scored pairs, and the value of each metric."""
    pairs = read_table(location / "pairs.parquet", SCORED_PAIRS).to_pylist()
    return (
        [ScoredPair(**{**row, "aspects": tuple(row["aspects"] or ())}) for row in pairs],
        json.loads((location / "metrics.json").read_text()),
    )


def test_evaluate_scores_each_held_out_explanation_beside_its_reference(pipeline):
    pairs, metrics = _evaluation(pipeline.location("evaluation"))
    dataset = read_dataset(pipeline.location("dataset"))
    users, items = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    references = {
        (users[row["user_index"]], items[row["item_index"]]): row["explanation"]
        for row in dataset.explained_pairs("test").to_pylist()
    }
    explained = read_explanations(pipeline.location("explanations").uri, pipeline.storage)
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in explained.to_pylist()}
    failures = read_failed(pipeline.location("explanations").uri, None, pipeline.storage)
    refused = {(row["user_id"], row["item_id"]) for row in failures.to_table().to_pylist()}
    assert {(pair.user_id, pair.item_id): pair.explanation for pair in pairs} == {
        **texts,
        **dict.fromkeys(refused, ""),
    }
    assert metrics["coverage"] == pytest.approx(len(texts) / len(pairs))
    assert all(pair.reference == references[pair.user_id, pair.item_id] for pair in pairs)
    assert all(pair.shuffled_explanation is not None for pair in pairs)
    assert all(math.isfinite(pair.nll_own) and math.isfinite(pair.nll_shuffled) for pair in pairs)
    gain = sum(pair.nll_shuffled - pair.nll_own for pair in pairs) / len(pairs)
    assert metrics["personalization_gain"] == pytest.approx(gain, abs=1e-6)
    titles = dict(zip(items, dataset.items["title"].to_pylist(), strict=True))
    for pair in pairs:
        assert pair.item_title == titles[pair.item_id]
        assert pair.names_item == (pair.item_title in pair.explanation)
        others = [title for title in titles.values() if title != pair.item_title]
        assert (pair.other_title is not None) == any(title in pair.explanation for title in others)
    assert {"names_item", "names_another_item", "aspects_supported"} <= set(metrics)
    assert "aspect_accuracy" in metrics
    assert "embedding_f1" not in metrics
    failed = pipeline.manifests["explanations"].metrics["failed_by_reason"]
    counts = pipeline.manifests["evaluation"].row_counts
    assert counts["explained_in_backfill"] == len(texts)
    told = {name.partition(":")[2]: count for name, count in counts.items() if ":" in name}
    assert told == failed


def _explainer(config: EvaluateConfig) -> Explainer:
    return load_explainer(sources_of(config), device=config.device, engine=config.engine)


def test_evaluate_nll_is_the_models_own_log_likelihood(pipeline):
    """One pair again, by hand: log-softmax of the logits at each token of the reference."""
    explainer = _explainer(pipeline.config(EvaluateConfig))
    dataset = explainer.dataset
    pair = _evaluation(pipeline.location("evaluation"))[0][0]
    indices = Pair(dataset.user_index(pair.user_id), dataset.item_index(pair.item_id))
    prompt = explainer.pairs.prompt(indices)
    assert pair.item_title in pair.reference
    hidden = pair.reference.replace(pair.item_title, "[title]")
    label = explainer.pairs.builder.encode_explanation(hidden)
    with torch.no_grad():
        logits = explainer.model(torch.tensor([prompt + label]), use_cache=False).logits[0]
    log_probabilities = logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(label)), label]
    assert pair.nll_own == pytest.approx(-log_probabilities.mean().item(), rel=1e-4)


def test_evaluate_pairs_that_failed_or_do_not_fit_have_empty_texts(pipeline, monkeypatch):
    config = pipeline.config(EvaluateConfig)
    explainer = _explainer(config)
    pairs = held_out_pairs(explainer.dataset, "test")[:4]
    pairs[0] = replace(pairs[0], aspect=None, aspects=None)  # as where none is planted
    texts = ["A text.", "", "", "Another."]
    fits = [True, True, False, True]
    monkeypatch.setattr("xrec.evaluate.scores.fitting_pairs", lambda *_: fits)
    scored = score_pairs(explainer, list(zip(pairs, texts, strict=True)), config.decoding)
    assert [score.explanation for score in scored] == texts
    assert [score.gain is not None for score in scored] == fits
    assert scored[0].shuffled_explanation is None
    assert scored[1].shuffled_explanation is not None
    for score, fit in zip(scored, fits, strict=True):
        assert fit or not score.shuffled_explanation
        assert score.explanation or not score.names_item


def test_evaluate_a_split_that_was_not_backfilled_says_so(pipeline):
    elsewhere = {"evaluation": f"{pipeline.workspace}/other-evaluation", "split": "validation"}
    words = r"0 explanations have a reference in split 'validation'.*backfill that split first"
    with pytest.raises(DataError, match=words):
        jobs.evaluate.run(pipeline.config(EvaluateConfig, **elsewhere))
    assert not pipeline.location("other-evaluation").exists()


def test_pairs_to_score_are_those_with_a_reference(pipeline):
    dataset = read_dataset(pipeline.location("dataset"))
    first, second = held_out_pairs(dataset, "test")[:2]
    known = (first.user_id, first.item_id)
    new = [(first.user_id, "a new item"), ("a new user", first.item_id)]
    written = pa.Table.from_pylist(
        [{"user_id": user, "item_id": item, "explanation": "text"} for user, item in (*new, known)]
    )
    failed = pa.table({"user_id": [second.user_id], "item_id": [second.item_id]})
    assert with_references(dataset, written, failed, "test") == [(first, "text"), (second, "")]
