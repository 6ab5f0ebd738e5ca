"""Adapter training on a real Ray cluster with DeepSpeed.

The tests look at what comes out, what stays frozen, and whether one worker equals two.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.xrec.train.adapter_town import (
    allow_float16,
    build_workspace,
    make_config,
    write_random_graph,
)
from xrec.adapter.artifact import read_adapter
from xrec.adapter.model import attach_adapters
from xrec.config.shared import ScalingConfig
from xrec.errors import ArtifactMismatchError, ConfigError, DataError, TrainingError
from xrec.graph import read_graph
from xrec.llm.examples import explanation_nll
from xrec.llm.model import load_model
from xrec.storage import Manifest, open_location
from xrec.train.adapter import train_adapter
from xrec.train.data import load_adapter_data
from xrec.train.ray_driver import fit

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A town of 40 users, a graph of random vectors, a random language model."""
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def trained(workspace: str) -> Manifest:
    """An adapter trained by two workers at ZeRO stage 3."""
    return train_adapter(make_config(workspace))


def history_of(adapter: str | Path) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads((Path(adapter) / "history.json").read_text())
    return history


def assert_same_losses(adapter: Path, workspace: str, tolerance: float) -> None:
    rows, expected = history_of(adapter), history_of(f"{workspace}/adapter")
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("train_loss", "validation_loss"):
        assert [row[name] for row in rows] == pytest.approx(
            [row[name] for row in expected], rel=tolerance
        )


def test_train_adapter_loss_falls_and_the_best_epoch_is_kept(
    workspace: str, trained: Manifest
) -> None:
    history = history_of(f"{workspace}/adapter")
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.05
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    assert all(row["pairs_per_second"] > 0 for row in history)
    assert trained.metrics == min(history, key=lambda row: row["validation_loss"])
    assert trained.metrics["num_left_out"] == {}
    assert sorted(open_location(f"{workspace}/adapter").files()) == [
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "history.json",
        "manifest.json",
    ]


def test_train_adapter_artifact_has_the_validation_loss_that_its_manifest_says(
    workspace: str, trained: Manifest
) -> None:
    data = load_adapter_data(make_config(workspace))
    artifact = read_adapter(open_location(f"{workspace}/adapter"))
    graph = read_graph(open_location(f"{workspace}/graph"))
    artifact.check_graph(graph.manifest.fingerprint)
    model = load_model(Path(workspace, "llm"), dtype=torch.float32, device=torch.device("cpu"))
    attach_adapters(model, artifact.adapters, user_vectors=graph.users, item_vectors=graph.items)
    total = sum(
        mean * len(data.validation[index].label_ids)
        for index, mean in explanation_nll(model, data.validation, 5)
    )
    loss = total / sum(len(example.label_ids) for example in data.validation)
    assert loss == pytest.approx(trained.metrics["validation_loss"], rel=1e-5)


@pytest.mark.slow
def test_train_adapter_one_worker_at_stage_1_that_keeps_all_equals_two_at_stage_3(
    workspace: str, trained: Manifest, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"num_workers": 1, "zero_stage": 1, "prefix_cache_gib": 1.0}
    one = train_adapter(make_config(workspace, adapter=tmp_path, **sizes))
    assert one.run == trained.run
    assert_same_losses(tmp_path, workspace, 1e-4)
    weights, expected = (
        safetensors.torch.load_file(Path(folder, "adapter.safetensors"))
        for folder in (tmp_path, f"{workspace}/adapter")
    )
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_train_adapter_in_float16_from_too_high_a_loss_scale_on_has_the_losses_of_float32(
    workspace: str,
    trained: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zero_stage: int,
) -> None:
    allow_float16(monkeypatch, first_scale_power=24)
    train_adapter(make_config(workspace, zero_stage=zero_stage, adapter=tmp_path, dtype="float16"))
    assert history_of(tmp_path)[0]["loss_scale"] < 2**24
    assert_same_losses(tmp_path, workspace, 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"gradient_checkpointing": True},
        {"deepspeed": {"param_persistence_threshold": 300}},
        {"deepspeed": {"offload": "cpu"}},
        {"deepspeed": {"max_live_parameters": 0}},
    ],
)
def test_train_adapter_way_of_saving_memory_changes_no_loss(
    workspace: str, trained: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert train_adapter(make_config(workspace, adapter=tmp_path, **change)).run == trained.run
    assert_same_losses(tmp_path, workspace, 1e-5)


@pytest.mark.slow
def test_train_adapter_loss_that_is_no_number_names_epoch_and_step(
    workspace: str, tmp_path: Path
) -> None:
    rate = {"peak": 1e30, "warmup_share": 0.0}
    with pytest.raises(
        TrainingError,
        match=r"^epoch 1, step [23]: the loss is (nan|inf); lower training\.learning_rate\.peak",
    ):
        train_adapter(make_config(workspace, adapter=tmp_path, learning_rate=rate))


def test_train_adapter_second_run_does_no_work_and_another_run_is_refused(
    workspace: str, trained: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.train.adapter.fit", None)
    assert train_adapter(make_config(workspace)) == trained
    # Neither workers nor the stage change the content.
    assert train_adapter(make_config(workspace, num_workers=1, zero_stage=1)) == trained
    with pytest.raises(ArtifactMismatchError, match=r"training\.seed: 0 there, 7 here"):
        train_adapter(make_config(workspace, seed=7))


def test_engine_at_stage_3_shards_the_model_and_training_leaves_it_bit_equal(
    workspace: str, tmp_path: Path
) -> None:
    config = make_config(workspace)

    def loop(loop_config: dict[str, Any]) -> None:
        import deepspeed
        import safetensors.torch
        import torch

        from xrec.train.adapter_model import build_engine, build_model
        from xrec.train.data import load_adapter_data
        from xrec.train.deepspeed_engine import gathered_state
        from xrec.train.ray_worker import rank, report

        data = load_adapter_data(loop_config["config"])
        model, adapters = build_model(loop_config["config"], data)
        engine = build_engine(model, loop_config["config"], data, num_steps=2)
        frozen = {
            name: parameter
            for name, parameter in engine.module.named_parameters()
            if not parameter.requires_grad
        }
        share = sum(parameter.ds_tensor.numel() for parameter in frozen.values()) / sum(
            parameter.ds_numel for parameter in frozen.values()
        )
        before = gathered_state(adapters)
        engine.train()
        for first in range(rank() * 4, 32, 8):
            engine.backward(engine(data.train[first : first + 4]))
            engine.step()
        moved = {
            name: not torch.equal(tensor, before[name])
            for name, tensor in gathered_state(adapters).items()
        }
        with deepspeed.zero.GatheredParameters(list(frozen.values())):
            weights = safetensors.torch.save(
                {name: parameter.detach().clone() for name, parameter in frozen.items()}
            )
        report({"share": share, "moved": moved}, {"frozen.safetensors": weights})

    scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
    outcome = fit(
        loop, {"config": config}, scaling=scaling, storage=open_location(str(tmp_path)), name="run"
    )

    after = safetensors.torch.load(outcome.read_checkpoint_file("frozen.safetensors"))
    on_disk = safetensors.torch.load_file(Path(workspace, "llm", "model.safetensors"))
    after = {
        name.removeprefix("model.").replace(
            "embed_tokens.token_embedding.", "embed_tokens."
        ): tensor
        for name, tensor in after.items()
    }
    assert set(after) == set(on_disk)
    assert all(torch.equal(after[name], tensor) for name, tensor in on_disk.items())
    assert outcome.metrics["share"] == pytest.approx(0.5, abs=0.01)
    constants = {
        f"{side}.{name}" for side in ("user", "item") for name in ("mean", "std", "scale", "noise")
    }  # no noise: its weights stay
    assert {
        name for name, has_moved in outcome.metrics["moved"].items() if not has_moved
    } == constants


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"global_batch_size": 20}, r"global_batch_size = 20 is no multiple of .* 4 \* 2; change"),
        ({"global_batch_size": 15, "micro_batch_size": "auto"}, r"= 15 is no multiple .* 1 \* 2;"),
    ],
)
def test_train_adapter_batch_that_does_not_divide_raises_config_error(
    workspace: str, tmp_path: Path, training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_adapter(make_config(workspace, adapter=tmp_path / "adapter", **training))


def test_train_adapter_graph_of_another_dataset_is_refused(workspace: str, tmp_path: Path) -> None:
    write_random_graph(tmp_path / "graph", "another")
    config = make_config(workspace, adapter=tmp_path / "adapter")
    with pytest.raises(ArtifactMismatchError, match="trained on dataset another"):
        train_adapter(config.model_copy(update={"graph": str(tmp_path / "graph")}))


@pytest.mark.parametrize("change", [{"global_batch_size": 4096}, {"max_explanation_tokens": 1}])
def test_load_adapter_data_too_few_pairs_raises_data_error(
    workspace: str, change: dict[str, int]
) -> None:
    with pytest.raises(
        DataError,
        match=r"training and \d+ validation pairs .* expected at least training\.global_batch_size",
    ):
        load_adapter_data(make_config(workspace, **change))
