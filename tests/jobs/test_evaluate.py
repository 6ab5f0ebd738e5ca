"""The job on s3://: metrics against the tables they come from, the report, and what is refused."""

import json
import math
import re
from typing import Any

import pyarrow as pa
import pytest

import jobs.evaluate
from jobs.prepare import run as prepare_dataset
from xrec.backfill import read_explanations, read_failed
from xrec.config.data import PrepareConfig
from xrec.config.engine import EngineConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.data import read_dataset
from xrec.data.drawn import drawn_pairs
from xrec.data.held_out import held_out_pairs
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate.evaluation import read_coverage, read_evaluation
from xrec.evaluate.scores import Coverage
from xrec.generate.loading import Sources, load_explainer
from xrec.storage import open_location, read_manifest


@pytest.fixture
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **settings: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(jobs.evaluate, "load_explainer", load)


def test_evaluate_scores_each_held_out_explanation_beside_its_reference(pipeline: Any) -> None:
    pairs, metrics = read_evaluation(pipeline.location("evaluation"))
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
    assert metrics["coverage"].value == pytest.approx(len(texts) / len(pairs))
    assert metrics["empty_share"].value == pytest.approx(len(refused) / len(pairs))
    assert all(pair.reference == references[pair.user_id, pair.item_id] for pair in pairs)
    assert sum(pair.shuffled_explanation is not None for pair in pairs) == 8
    assert all(math.isfinite(pair.nll_own) and math.isfinite(pair.nll_shuffled) for pair in pairs)
    gain = sum(pair.nll_shuffled - pair.nll_own for pair in pairs) / len(pairs)
    assert metrics["personalization_gain"].value == pytest.approx(gain, abs=1e-6)
    titles = dict(zip(items, dataset.items["title"].to_pylist(), strict=True))
    for pair in pairs:
        assert pair.item_title == titles[pair.item_id]
        assert pair.names_item == (pair.item_title in pair.explanation)
        assert pair.reference_names_item
        others = [title for title in titles.values() if title != pair.item_title]
        assert (pair.other_title is not None) == any(title in pair.explanation for title in others)
    assert metrics["names_item_references"].value == 1.0
    assert {"names_item", "names_another_item", "aspects_supported"} <= set(metrics)
    assert "aspect_accuracy" in metrics
    assert "embedding_f1" not in metrics
    failed = pipeline.manifests["explanations"].metrics["failed_by_reason"]
    coverage = read_coverage(pipeline.location("evaluation"))
    assert (coverage.num_explained, coverage.failed) == (len(texts), failed)


def test_evaluate_nll_is_the_models_own_log_likelihood(pipeline: Any) -> None:
    """One pair again, by hand: log-softmax of the logits at each token of the reference."""
    import torch

    from xrec.adapter.pairs import Pair

    config = pipeline.config(EvaluateConfig)
    sources = Sources(
        **{name: config.artifact(name) for name in ("dataset", "graph", "adapter")},
        llm=config.llm,
        storage=config.storage,
    )
    explainer = load_explainer(sources, device="cpu", engine=EngineConfig())
    pair = read_evaluation(pipeline.location("evaluation"))[0][0]
    indices = Pair(
        explainer.dataset.user_index(pair.user_id), explainer.dataset.item_index(pair.item_id)
    )
    prompt, label = (
        explainer.pairs.prompt(indices),
        explainer.pairs.builder.encode_explanation(
            pair.reference.replace(pair.item_title, "[title]")
        ),
    )
    assert pair.item_title in pair.reference
    with torch.no_grad():
        logits = explainer.model(input_ids=torch.tensor([prompt + label]), use_cache=False).logits[
            0
        ]
    log_probabilities = logits[len(prompt) - 1 : -1].log_softmax(-1)[range(len(label)), label]
    assert pair.nll_own == pytest.approx(-log_probabilities.mean().item(), rel=1e-4)


def test_evaluate_pairs_that_failed_or_do_not_fit_are_scored_with_empty_texts(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipeline.config(EvaluateConfig, max_shuffled_generations=3)
    explainer = jobs.evaluate.load_explainer_of(config)
    pairs = held_out_pairs(explainer.dataset, "test")[:4]
    texts = ["A text.", "", "", "Another."]
    monkeypatch.setattr(jobs.evaluate, "fitting_pairs", lambda *_: [True, True, False, True])
    scored = jobs.evaluate.score_pairs(explainer, list(zip(pairs, texts, strict=True)), config)
    assert [score.explanation for score in scored] == texts
    assert [score.gain is None for score in scored] == [False, False, True, False]
    asked = {(pair.user_id, pair.item_id) for pair in drawn_pairs(pairs, 3, seed=config.seed)}
    for place, score in enumerate(scored):
        assert (score.shuffled_explanation is not None) == ((score.user_id, score.item_id) in asked)
        assert place != 2 or not score.shuffled_explanation
        assert place not in (1, 2) or not score.names_item


def test_evaluate_report_is_one_page_and_the_metrics_are_the_same_everywhere(pipeline: Any) -> None:
    location = pipeline.location("evaluation")
    html = (location / "report.html").read_text()
    links = re.findall(r'(?:href|src|action)="([^"]*)"', html)
    assert links
    assert [link for link in links if not link.startswith("#")] == []
    pairs, metrics = read_evaluation(location)
    assert any(pair.user_id in html for pair in pairs)
    values = json.loads((location / "metrics.json").read_text())
    assert values == pipeline.manifests["evaluation"].metrics
    assert values["personalization_gain"] == metrics["personalization_gain"].value


@pytest.mark.usefixtures("without_model")
def test_evaluate_second_run_loads_no_model_and_another_run_is_refused(pipeline: Any) -> None:
    assert jobs.evaluate.run(pipeline.config(EvaluateConfig)) == pipeline.manifests["evaluation"]
    with pytest.raises(ArtifactMismatchError, match="seed: 0 there, 5 here"):
        jobs.evaluate.run(pipeline.config(EvaluateConfig, seed=5))


@pytest.mark.usefixtures("without_model")
def test_evaluate_explanations_of_another_adapter_are_refused(pipeline: Any) -> None:
    other = pipeline.copy_of("adapter", "evaluate-other-adapter")
    changed = read_manifest(other, "adapter").model_copy(update={"fingerprint": "0" * 16})
    (other / "manifest.json").write_bytes(changed.model_dump_json().encode())
    made_by = pipeline.manifests["adapter"].fingerprint
    with pytest.raises(
        ArtifactMismatchError,
        match=rf"/explanations: made by adapter {made_by}, but .*other-adapter is {'0' * 16}",
    ):
        jobs.evaluate.run(
            pipeline.config(
                EvaluateConfig,
                adapter=other.uri,
                evaluation=f"{pipeline.workspace}/other-evaluation",
            )
        )
    assert not pipeline.location("other-evaluation").exists()


@pytest.mark.usefixtures("without_model")
def test_evaluate_other_drawing_than_the_backfills_is_refused_where_texts_are_drawn(
    pipeline: Any,
) -> None:
    config = pipeline.config(EvaluateConfig, evaluation=f"{pipeline.workspace}/other-evaluation")
    tokens = config.decoding.max_new_tokens
    other = config.decoding.model_copy(update={"max_new_tokens": tokens + 1})
    with pytest.raises(
        ArtifactMismatchError, match=rf"decoding\.max_new_tokens: {tokens} there, {tokens + 1} here"
    ):
        jobs.evaluate.run(
            config.model_copy(update={"decoding": other, "max_shuffled_generations": 2})
        )
    assert not pipeline.location("other-evaluation").exists()


@pytest.mark.usefixtures("without_model")
def test_evaluate_other_artifacts_than_the_backfills_are_refused_where_texts_are_drawn(
    pipeline: Any,
) -> None:
    """What is drawn beside the texts knows no newcomers, and would be chosen otherwise."""
    other = pipeline.copy_of("explanations", "evaluate-cold-start")
    log = other / "_delta_log" / f"{0:020d}.json"
    inputs = rb"\"inputs\":{"
    log.write_bytes(
        log.read_bytes().replace(inputs, inputs + rb"\"cold_start\":\"%b\"," % (b"1" * 16))
    )
    config = pipeline.config(
        EvaluateConfig,
        explanations=other.uri,
        evaluation=f"{pipeline.workspace}/other-evaluation",
        max_shuffled_generations=2,
    )
    with pytest.raises(
        ArtifactMismatchError, match=r"inputs\.cold_start: '1{16}' there, nothing here"
    ):
        jobs.evaluate.run(config)
    assert not pipeline.location("other-evaluation").exists()


def test_evaluate_a_split_that_was_not_backfilled_says_so(pipeline: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"0 explanations have a reference in split 'validation'.*backfill that split first",
    ):
        jobs.evaluate.run(
            pipeline.config(
                EvaluateConfig,
                split="validation",
                evaluation=f"{pipeline.workspace}/other-evaluation",
            )
        )
    assert not pipeline.location("other-evaluation").exists()


def test_pairs_to_score_and_coverage_pass_over_users_and_items_of_a_cold_start(
    tmp_path: Any,
) -> None:
    town = {
        "kind": "sample",
        "num_users": 20,
        "num_items": 15,
        "interactions_per_user": 8,
        "explanations_per_user": 4,
    }
    prepare_dataset(PrepareConfig.model_validate({"workspace": str(tmp_path), "source": town}))
    dataset = read_dataset(open_location(str(tmp_path / "dataset")))
    known = dataset.explained_pairs("test").slice(0, 2).to_pylist()
    ids_of = [
        (
            dataset.users["user_id"][row["user_index"]].as_py(),
            dataset.items["item_id"][row["item_index"]].as_py(),
        )
        for row in known
    ]
    user_id, item_id = ids_of[0]
    pairs = [(user_id, item_id), ("a new user", item_id), (user_id, "a new item")]
    explanations = pa.table(
        {
            "user_id": [user for user, _ in pairs],
            "item_id": [item for _, item in pairs],
            "explanation": ["text"] * 3,
        }
    )
    failed = pa.table(
        {
            "user_id": [ids_of[1][0], "a new user"],
            "item_id": [ids_of[1][1], item_id],
            "reason": ["names_another_item"] * 2,
        }
    )
    rows = jobs.evaluate.with_references(dataset, explanations, failed, "test")
    counted = jobs.evaluate.coverage_of(rows, failed)
    assert counted == Coverage(1, {"names_another_item": 1})
    assert [(pair.user_id, pair.item_id, pair.reference, text) for pair, text in rows] == [
        (*ids_of[0], known[0]["explanation"], "text"),
        (*ids_of[1], known[1]["explanation"], ""),
    ]
