"""Adapter training on Ray with DeepSpeed: what comes out, what stays frozen, one worker and two."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.errors import raises
from tests.world.models import EMBEDDING_DIM, HIDDEN_SIZE, explanation_nll
from tests.world.workspace import save_random_graph
from tests.xrec.train.adapter_town import (
    OFFLOAD,
    RANDOM,
    adapter_data,
    allow_float16,
    assert_same_losses,
    history_of,
    make_config,
)
from xrec.adapter.artifact import read_adapter
from xrec.adapter.model import attach_adapters, build_adapters
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.graph.artifact import read_graph
from xrec.llm.model import load_model
from xrec.storage import open_location
from xrec.train.adapter import train_adapter


def test_train_adapter_loss_falls_and_the_best_epoch_is_kept(workspace, trained_adapter):
    adapter = open_location(f"{workspace}/adapter")
    history = history_of(adapter)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.05
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert all(row["pairs_per_second"] > 0 for row in history)
    best = min(history, key=lambda row: row["validation_loss"])
    assert trained_adapter.manifest.metrics.items() >= best.items()
    assert trained_adapter.manifest.metrics["num_left_out"] == {}
    fits = trained_adapter.manifest.metrics["fits"]
    assert fits.keys() == {"user profile", "item profile", "vectors"}
    names = ["README.md", "adapter.safetensors", "adapter_config.json", "history.json"]
    assert sorted(adapter.files()) == [*names, "manifest.json"]


def test_train_adapter_artifact_has_the_validation_loss_that_its_manifest_says(
    workspace, trained_adapter, tmp_path
):
    data = adapter_data(make_config(workspace, adapter=tmp_path))
    artifact = read_adapter(open_location(f"{workspace}/adapter"))
    graph = read_graph(open_location(f"{workspace}/graph"))
    artifact.check_graph(graph.manifest)
    folder = Path(workspace, "llm")
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
    attach_adapters(model, artifact.adapters, user_vectors=graph.users, item_vectors=graph.items)
    total = sum(
        mean * data.validation.num_label_tokens[index]
        for index, mean in explanation_nll(model, list(data.validation), 5)
    )
    loss = total / data.validation.num_label_tokens.sum()
    assert loss == pytest.approx(trained_adapter.manifest.metrics["validation_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ({"num_workers": 1, "zero_stage": 1, "prefix_cache_gib": 1.0}, 1e-4),
        ({"num_workers": 2, "zero_stage": 1}, 1e-4),
        ({"num_workers": 1}, 1e-4),
        ({"num_workers": 3}, 1e-4),
        ({"gradient_checkpointing": True}, 1e-5),
        ({"zero": {"stage3_param_persistence_threshold": 300}}, 1e-5),
        ({"zero": OFFLOAD}, 1e-5),
        ({"num_workers": 4, "zero": {"zero_hpz_partition_size": 2}}, 1e-4),
        # From too high a loss scale on.
        ({"dtype": "float16", "zero_stage": 1}, 2e-3),
        ({"dtype": "float16"}, 2e-3),
    ],
)
def test_train_adapter_any_number_of_workers_and_way_of_saving_memory_has_the_same_losses(
    workspace, alone, trained_adapter, tmp_path, monkeypatch, change, tolerance
):
    """Those of one worker at stage 1 in float32."""
    # Elastic scaling may come to three workers, among whom a step's micro-batches do not divide.
    monkeypatch.setattr("xrec.train.adapter._check_batch_sizes", lambda config: None)
    is_float16 = change.get("dtype") == "float16"
    if is_float16:
        allow_float16(monkeypatch, first_scale_power=24)
    config = make_config(workspace, adapter=tmp_path, model=RANDOM, **change)
    manifest = train_adapter(config)
    assert_same_losses(history_of(tmp_path), alone.history, tolerance)
    if is_float16:
        assert history_of(tmp_path)[0]["loss_scale"] < 2**24
        return
    assert manifest.run == trained_adapter.manifest.run
    assert_same_weights(tmp_path, alone.checkpoint)


def assert_same_weights(adapter: Path, expected: Path) -> None:
    found, weights = (
        safetensors.torch.load_file(folder / "adapter.safetensors")
        for folder in (adapter, expected)
    )
    torch.testing.assert_close(found, weights, rtol=1e-2, atol=1e-3)


def test_two_workers_at_stage_3_have_the_losses_and_weights_of_one_at_stage_1(
    workspace, alone, trained_adapter
):
    rows = history_of(f"{workspace}/adapter")
    assert_same_losses(rows[:1], alone.history[:1])  # before a worker was killed
    assert_same_losses(rows, alone.history)
    assert_same_weights(Path(workspace, "adapter"), alone.checkpoint)


def test_train_adapter_second_run_does_no_work_and_another_run_is_refused(
    workspace, trained_adapter, monkeypatch
):
    monkeypatch.setattr("xrec.train.adapter.fit", None)
    # Neither workers nor the stage change the content.
    for sizes in ({}, {"num_workers": 1, "zero_stage": 1}):
        config = make_config(workspace, model=RANDOM, **sizes)
        assert train_adapter(config) == trained_adapter.manifest
    with raises(ArtifactMismatchError, "another_run", key="training.seed"):
        train_adapter(make_config(workspace, model=RANDOM, seed=7))


def test_train_adapter_at_stage_3_shards_the_model_and_moves_nothing_but_the_adapters(
    workspace, trained_adapter
):
    weights = safetensors.torch.load_file(Path(workspace, "llm", "model.safetensors"))
    frozen = safetensors.torch.load_file(Path(workspace, "frozen.safetensors"))
    assert float(frozen.pop("share")) == pytest.approx(0.5, abs=0.01)
    after = {
        name.removeprefix("model.").replace("embed_tokens.token_embedding.", "embed_tokens."): saved
        for name, saved in frozen.items()
    }
    assert set(after) == set(weights)
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    trained, graph = (
        read(open_location(f"{workspace}/{name}"))
        for read, name in ((read_adapter, "adapter"), (read_graph, "graph"))
    )
    torch.manual_seed(0)  # the training's seed
    sizes = {"embedding_dim": EMBEDDING_DIM, "hidden_size": HIDDEN_SIZE}
    start, end = build_adapters(trained.config.model, **sizes), trained.adapters
    start.user.fit_input(graph.users, float(end.user.scale))
    start.item.fit_input(graph.items, float(end.item.scale))
    before, moved = start.state_dict(), end.state_dict()
    still = {name for name, tensor in before.items() if torch.equal(moved[name], tensor)}
    assert still == {
        f"{side}.{name}" for side in ("user", "item") for name in ("mean", "std", "scale")
    }


@pytest.mark.parametrize(
    "training",
    [{"global_batch_size": 20}, {"global_batch_size": 15, "micro_batch_size": "auto"}],
)
def test_train_adapter_batch_that_does_not_divide_is_refused(workspace, tmp_path, training):
    size = training["global_batch_size"]
    with raises(ConfigError, "batch_does_not_divide", "training.global_batch_size", size):
        train_adapter(make_config(workspace, adapter=tmp_path / "adapter", **training))


def test_train_adapter_graph_of_another_dataset_is_refused(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.train.adapter.fit", None)
    save_random_graph(tmp_path / "graph", 40, 30, "another")
    config = make_config(workspace, adapter=tmp_path / "adapter")
    with raises(ArtifactMismatchError, "graph_of_another_dataset", saw="another"):
        train_adapter(config.with_artifacts({"graph": str(tmp_path / "graph")}))
