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
    SMALL_CACHE_GIB,
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


def test_train_adapter_loss_falls_and_the_best_epoch_is_kept(
    workspace: str, trained: Manifest
) -> None:
    history = history_of(f"{workspace}/adapter")
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.05
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
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


def test_train_adapter_keeps_beginnings_within_the_budget_and_reports_them(
    workspace: str, trained: Manifest
) -> None:
    history = history_of(f"{workspace}/adapter")
    assert history[0]["prefix_hit_share"] < 0.1
    assert all(
        0.2 < row["prefix_hit_share"] < 0.6 for row in history[1:]
    )  # which rows an epoch leaves out differs
    assert (
        1.5 * SMALL_CACHE_GIB < history[2]["prefix_cache_gib"] <= 2 * SMALL_CACHE_GIB
    )  # two workers
    assert all(0 < row["padding_share"] < 0.3 for row in history)


@pytest.mark.slow
def test_train_adapter_one_worker_at_stage_1_that_keeps_all_equals_two_at_stage_3(
    workspace: str, trained: Manifest, tmp_path: Path
) -> None:
    one = train_adapter(
        make_config(
            workspace,
            num_workers=1,
            zero_stage=1,
            adapter=tmp_path / "adapter",
            prefix_cache_gib=1.0,
        )
    )
    assert history_of(tmp_path / "adapter")[-1]["prefix_hit_share"] > 0.9
    assert one.run == trained.run
    pairs = list(
        zip(history_of(tmp_path / "adapter"), history_of(f"{workspace}/adapter"), strict=True)
    )
    for name in ("train_loss", "validation_loss"):
        assert [left[name] for left, _ in pairs] == pytest.approx(
            [right[name] for _, right in pairs], rel=1e-4
        )
    weights = [
        safetensors.torch.load_file(Path(folder, "adapter.safetensors"))
        for folder in (tmp_path / "adapter", f"{workspace}/adapter")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_train_adapter_in_float16_from_too_high_a_loss_scale_on_has_the_losses_of_float32(
    workspace: str,
    trained: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zero_stage: int,
) -> None:
    allow_float16(monkeypatch, first_scale_power=24)
    adapter = tmp_path / "adapter"
    train_adapter(make_config(workspace, zero_stage=zero_stage, adapter=adapter, dtype="float16"))
    rows, expected = history_of(adapter), history_of(f"{workspace}/adapter")
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert rows[0]["loss_scale"] < 2**24
    for name in ("train_loss", "validation_loss"):
        assert [row[name] for row in rows] == pytest.approx(
            [row[name] for row in expected], rel=2e-3
        )


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
    saving = train_adapter(make_config(workspace, adapter=tmp_path / "adapter", **change))
    assert saving.run == trained.run
    pairs = list(
        zip(history_of(tmp_path / "adapter"), history_of(f"{workspace}/adapter"), strict=True)
    )
    for name in ("train_loss", "validation_loss"):
        assert [left[name] for left, _ in pairs] == pytest.approx(
            [right[name] for _, right in pairs], rel=1e-5
        )


@pytest.mark.slow
def test_train_adapter_micro_batch_size_auto_at_stage_3_has_the_losses_of_the_size_it_chose(
    workspace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="xrec")
    rows = []
    for size in ("auto", 8):
        train_adapter(
            make_config(
                workspace, adapter=tmp_path / f"{size}", micro_batch_size=size, num_epochs=1
            )
        )
        rows += history_of(tmp_path / f"{size}")
    assert "training.micro_batch_size = 8: auto, the largest of 1, 2, 4, 8" in caplog.text
    for name in ("train_loss", "validation_loss", "micro_batch_size"):
        assert rows[0][name] == rows[1][name]


@pytest.mark.slow
def test_train_adapter_loss_that_is_no_number_names_epoch_and_step(
    workspace: str, tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingError,
        match=r"^epoch 1, step [23]: the loss is (nan|inf); lower training\.learning_rate\.peak",
    ):
        train_adapter(
            make_config(
                workspace,
                adapter=tmp_path / "adapter",
                learning_rate={"peak": 1e30, "warmup_share": 0.0},
            )
        )


def test_train_adapter_second_run_does_no_work(
    workspace: str, trained: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.train.adapter.fit", None)
    assert train_adapter(make_config(workspace)) == trained
    assert (
        train_adapter(make_config(workspace, num_workers=1, zero_stage=0)) == trained
    )  # neither changes the content


def test_train_adapter_output_of_another_run_is_refused(workspace: str, trained: Manifest) -> None:
    with pytest.raises(ArtifactMismatchError, match=r"training\.seed: 0 there, 7 here"):
        train_adapter(make_config(workspace, seed=7))


def test_build_engine_under_zero_3_shards_the_model_and_training_leaves_it_bit_equal(
    workspace: str, tmp_path: Path
) -> None:
    config = make_config(workspace)

    def loop(loop_config: dict[str, Any]) -> None:
        import deepspeed
        import safetensors.torch
        import torch

        from xrec.train.adapter_model import build_engine
        from xrec.train.data import load_adapter_data
        from xrec.train.deepspeed_engine import gathered_state
        from xrec.train.ray_worker import rank, report

        data = load_adapter_data(loop_config["config"])
        engine, adapters = build_engine(loop_config["config"], data, num_steps=2)
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


def test_train_adapter_batch_that_does_not_divide_raises_config_error(
    workspace: str, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.global_batch_size = 20 is no multiple of .* 4 \* 2"
    ):
        train_adapter(make_config(workspace, adapter=tmp_path / "adapter", global_batch_size=20))


def test_train_adapter_graph_of_another_dataset_is_refused(workspace: str, tmp_path: Path) -> None:
    write_random_graph(tmp_path / "graph", "another")
    config = make_config(workspace, adapter=tmp_path / "adapter").model_copy(
        update={"graph": str(tmp_path / "graph")}
    )
    with pytest.raises(ArtifactMismatchError, match="trained on dataset another"):
        train_adapter(config)


@pytest.mark.parametrize("change", [{"global_batch_size": 4096}, {"max_explanation_tokens": 1}])
def test_load_adapter_data_too_few_pairs_raises_data_error(
    workspace: str, change: dict[str, int]
) -> None:
    with pytest.raises(
        DataError,
        match=r"training and \d+ validation pairs .* expected at least training\.global_batch_size",
    ):
        load_adapter_data(make_config(workspace, **change))
