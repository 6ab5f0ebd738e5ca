"""Adapter training on Ray with DeepSpeed: its artifact, and any number of workers."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.errors import raises
from tests.world.models import explanation_nll
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
from tests.xrec.train.worker import Trained
from xrec.adapter.artifact import read_adapter
from xrec.adapter.model import attach_adapters
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


def test_train_adapter_artifact_has_the_validation_loss_of_its_manifest(
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
        # The first loss scale is too high.
        ({"dtype": "float16", "zero_stage": 1}, 2e-3),
        ({"dtype": "float16"}, 2e-3),
    ],
)
def test_train_adapter_has_the_same_losses_with_any_workers_and_any_way_of_saving_memory(
    workspace, alone, trained_adapter, tmp_path, monkeypatch, change, tolerance
):
    # Elastic scaling may arrive at three workers, which cannot share a step's micro-batches evenly.
    monkeypatch.setattr("xrec.train.adapter.check_batch_sizes", lambda config: None)
    is_float16 = change.get("dtype") == "float16"
    if is_float16:
        allow_float16(monkeypatch, first_scale_power=24)
    config = make_config(workspace, adapter=tmp_path, model=RANDOM, **change)
    manifest = train_adapter(config)
    if is_float16:
        assert_same_losses(history_of(tmp_path), alone.history, tolerance)
        assert history_of(tmp_path)[0]["loss_scale"] < 2**24
        return
    assert manifest.run == trained_adapter.manifest.run
    assert_same_training(tmp_path, alone, tolerance)


def assert_same_training(adapter: Path, expected: Trained, tolerance: float = 1e-4) -> None:
    assert_same_losses(history_of(adapter), expected.history, tolerance)
    found, weights = (
        safetensors.torch.load_file(folder / "adapter.safetensors")
        for folder in (adapter, expected.checkpoint)
    )
    torch.testing.assert_close(found, weights, rtol=1e-2, atol=1e-3)


@pytest.mark.usefixtures("trained_adapter")
def test_two_workers_at_stage_3_have_the_losses_and_weights_of_one_at_stage_1(workspace, alone):
    assert_same_training(Path(workspace, "adapter"), alone)


@pytest.mark.parametrize(
    "training",
    [{"global_batch_size": 20}, {"global_batch_size": 15, "micro_batch_size": "auto"}],
)
def test_train_adapter_refuses_a_batch_that_workers_cannot_share(workspace, tmp_path, training):
    size = training["global_batch_size"]
    with raises(ConfigError, "batch_does_not_divide", "training.global_batch_size", size):
        train_adapter(make_config(workspace, adapter=tmp_path / "adapter", **training))


def test_train_adapter_refuses_a_graph_of_another_dataset(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.train.adapter.fit", None)
    save_random_graph(tmp_path / "graph", 40, 30, "another")
    config = make_config(workspace, adapter=tmp_path / "adapter")
    with raises(ArtifactMismatchError, "graph_of_another_dataset", saw="another"):
        train_adapter(config.with_artifacts({"graph": str(tmp_path / "graph")}))
