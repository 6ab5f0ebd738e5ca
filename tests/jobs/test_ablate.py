"""The job `ablate` on s3://.

One variant is trained and one is taken over. The other tests replace training by a copy, to see
what is done again and what is refused.
"""

from collections.abc import Callable
from typing import Any

import pytest

import jobs.ablate
import jobs.explainer
from xrec.adapter.artifact import read_adapter
from xrec.adapter.pairs import Pair
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.evaluate import AblateConfig
from xrec.config.llm import EngineConfig
from xrec.errors import ArtifactMismatchError, DataError
from xrec.evaluate.ablation import ABLATION_METRICS
from xrec.evaluate.variant_scores import read_scores
from xrec.generate.explainer import Sources, load_explainer
from xrec.generate.scoring import reference_nll
from xrec.storage import Manifest, read_manifest, read_table


@pytest.fixture(scope="session")
def ablated(pipeline: Any) -> Manifest:
    """The full variant, copied from `xrec train-adapter`, and the constant one, trained here."""
    pipeline.copy_of("adapter", "ablation/full/adapter")
    return jobs.ablate.run(pipeline.config(AblateConfig))


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: TrainAdapterConfig) -> Manifest:
        raise AssertionError(f"{config.artifact('adapter')}: was to be trained")

    monkeypatch.setattr(jobs.ablate, "train_adapter", train)


@pytest.fixture
def copied_training(pipeline: Any, ablated: Manifest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training copies an adapter that is there; returns the list of variants that were trained."""
    trained: list[str] = []

    def train(config: TrainAdapterConfig) -> Manifest:
        uri = config.artifact("adapter").removeprefix(f"{pipeline.workspace}/")
        if not (pipeline.location(uri) / "manifest.json").exists():
            trained.append(uri.split("/")[-2])
            pipeline.copy_of(f"ablation/{trained[-1]}/adapter", uri)
        return read_manifest(pipeline.location(uri), "adapter")

    monkeypatch.setattr(jobs.ablate, "train_adapter", train)
    return trained


def test_ablate_each_variant_has_an_ordinary_adapter_that_says_what_it_is(
    pipeline: Any, ablated: Manifest
) -> None:
    adapters = {
        variant: read_adapter(pipeline.location(f"ablation/{variant}/adapter"))
        for variant in ("full", "constant")
    }
    assert {variant: adapter.config.model.vectors for variant, adapter in adapters.items()} == {
        "full": "graph",
        "constant": "constant",
    }
    assert (
        adapters["full"].manifest.run == pipeline.manifests["adapter"].run
    )  # the pipeline's own settings
    assert (
        adapters["constant"].manifest.config["training"]
        == adapters["full"].manifest.config["training"]
    )
    assert ablated.inputs == {
        name: pipeline.manifests["adapter"].inputs[name]
        for name in ("dataset", "graph", "base_model")
    }


def test_ablate_the_constant_variant_cannot_tell_users_apart_and_the_full_one_can(
    pipeline: Any, ablated: Manifest
) -> None:
    scores = {
        variant: read_scores(pipeline.location(f"ablation/{variant}/scores"))
        for variant in ("full", "constant")
    }
    pairs = {
        variant: [(score.user_id, score.item_id) for score in scores[variant]] for variant in scores
    }
    assert pairs["full"] == pairs["constant"]
    for score in scores["constant"]:
        assert score.nll_own == pytest.approx(score.nll_shuffled, rel=1e-5)
    assert any(abs(score.nll_own - score.nll_shuffled) > 1e-4 for score in scores["full"])
    assert ablated.metrics["constant"]["personalization_gain"] == pytest.approx(0, abs=1e-5)


def test_ablate_scores_are_those_of_the_adapter_artifact(pipeline: Any, ablated: Manifest) -> None:
    """The constant adapter loaded as backfill and evaluate load it gives the NLL of the table."""
    config = pipeline.config(AblateConfig)
    adapter = f"{pipeline.workspace}/ablation/constant/adapter"
    sources = Sources(
        config.artifact("dataset"), config.artifact("graph"), adapter, config.llm, config.storage
    )
    explainer = load_explainer(sources, device="cpu", engine=EngineConfig())
    score = read_scores(pipeline.location("ablation/constant/scores"))[0]
    pair = Pair(
        explainer.dataset.user_index(score.user_id), explainer.dataset.item_index(score.item_id)
    )
    assert reference_nll(explainer, [pair], [score.reference], "NLL") == pytest.approx(
        [score.nll_own], rel=1e-4
    )


def test_ablate_writes_the_table(pipeline: Any, ablated: Manifest) -> None:
    location = pipeline.location("ablation")
    report = (location / "report.md").read_text()
    assert "| `full` |" in report
    assert "| `constant` |" in report
    rows = {
        (row["variant"], row["metric"]): row
        for row in read_table(location / "metrics.parquet", ABLATION_METRICS).to_pylist()
    }
    difference = rows["constant", "nll_above_full"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["value"] == pytest.approx(
        rows["constant", "nll_own"]["value"] - rows["full", "nll_own"]["value"]
    )
    assert {metric for _, metric in rows} >= {"bleu", "rouge_l", "aspect_accuracy"}
    assert not [file for file in location.files() if "checkpoint" in file]


@pytest.mark.usefixtures("without_training", "ablated")
def test_ablate_second_run_does_no_work_and_another_run_is_refused(
    pipeline: Any, ablated: Manifest
) -> None:
    config = pipeline.config(AblateConfig)
    memory = config.training.model_copy(
        update={"prefix_cache_gib": 0.0, "steps_per_checkpoint": 1, "gradient_checkpointing": True}
    )
    assert (
        jobs.ablate.run(config)
        == jobs.ablate.run(config.model_copy(update={"training": memory}))
        == ablated
    )
    with pytest.raises(ArtifactMismatchError, match="seed: 0 there, 5 here"):
        jobs.ablate.run(pipeline.config(AblateConfig, seed=5))


def test_ablate_interrupted_goes_on_with_the_variants_that_are_missing(
    pipeline: Any, copied_training: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipeline.config(AblateConfig, ablation=f"{pipeline.workspace}/resumed")
    loaded = _count_explainers(monkeypatch, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        jobs.ablate.run(config)
    assert copied_training == ["full", "constant"]
    manifest = jobs.ablate.run(config)
    assert copied_training == ["full", "constant"]
    assert [uri.split("/")[-2] for uri in loaded] == ["full", "constant", "constant"]
    assert manifest.files == read_manifest(pipeline.location("ablation"), "ablation").files


def _count_explainers(monkeypatch: pytest.MonkeyPatch, fail_at: int) -> list[str]:
    loaded: list[str] = []
    load: Callable[..., Any] = jobs.explainer.load_explainer

    def counted(sources: Sources, **settings: Any) -> Any:
        loaded.append(sources.adapter)
        if len(loaded) == fail_at:
            raise KeyboardInterrupt
        return load(sources, **settings)

    monkeypatch.setattr(jobs.explainer, "load_explainer", counted)
    return loaded


@pytest.mark.usefixtures("without_training")
def test_ablate_too_few_held_out_pairs_is_said_before_anything_is_trained(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.ablate, "held_out_pairs", lambda dataset, split: [])
    with pytest.raises(
        DataError, match="0 explained pairs in split 'test', of fewer than two users"
    ):
        jobs.ablate.run(
            pipeline.config(AblateConfig, ablation=f"{pipeline.workspace}/other-ablation")
        )
    assert not pipeline.location("other-ablation").exists()
