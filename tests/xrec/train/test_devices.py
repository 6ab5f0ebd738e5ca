"""Training where the device is a GPU: nothing mixes devices, and NCCL gets no tensor of the CPU.

The GPU is not there (tests/fake_gpu.py), and neither are Ray and DeepSpeed (one_gpu_worker.py). All
that happens between them is the product's code, and its figures are those of a CPU.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.xrec.train.adapter_town import RANDOM, adapter_data, make_config
from tests.xrec.train.one_gpu_worker import OneWorker, become_worker
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.data.dataset import read_dataset
from xrec.storage import open_location
from xrec.train.adapter_model import ExplanationLoss, build_engine, build_model, try_step
from xrec.train.adapter_worker import AdapterWorker
from xrec.train.deepspeed_engine import move_to_device
from xrec.train.graph_model import GraphData, HeldOut
from xrec.train.graph_worker import GraphWorker
from xrec.train.ray_worker import prepare_worker


@pytest.fixture
def gpu():
    with FakeGPU(nccl=True):
        yield GPU


def config_of(workspace: str, adapter: Path, **changes: Any) -> TrainAdapterConfig:
    settings = {"num_workers": 1, "zero_stage": 1, "num_epochs": 2, "max_validation_pairs": 4}
    return make_config(workspace, adapter=adapter, **{**settings, **changes})


def train_adapter_here(worker: OneWorker, config: TrainAdapterConfig) -> list[dict[str, Any]]:
    training = AdapterWorker(config, adapter_data(config), "run")
    while not training.has_finished:
        training.run_epoch()
    rows = [row for row in worker.reports if "train_loss" in row]
    return [{key: row[key] for key in row if "second" not in key} for row in rows]


@pytest.mark.parametrize("world_size", [1, 2])
def test_adapter_worker_on_a_gpu_trains_validates_and_resumes_as_on_a_cpu(
    workspace, tmp_path, monkeypatch, world_size
):
    def train(device: torch.device) -> list[dict[str, Any]]:
        worker = become_worker(monkeypatch, tmp_path / device.type, device, world_size)
        settings = {"num_workers": world_size, "steps_per_checkpoint": 1}
        for max_steps in (2, 3):  # the second run goes on from the first one's checkpoint
            rows = train_adapter_here(
                worker, config_of(workspace, tmp_path, max_steps=max_steps, **settings)
            )
        return rows

    expected = train(CPU)
    with FakeGPU(nccl=True):
        rows = train(GPU)
    assert [row["step"] for row in rows] == [2, 3]
    for row, other in zip(rows, expected, strict=True):
        for key in ("train_loss", "validation_loss"):
            assert row[key] == pytest.approx(other[key], rel=1e-5)  # with another attention


def test_steps_are_told_of_the_whole_training_with_what_is_to_go(workspace, tmp_path, monkeypatch):
    worker, notes = become_worker(monkeypatch, tmp_path, CPU), list[str]()
    monkeypatch.setattr("xrec.train.ray_worker._pace", None)
    monkeypatch.setattr("xrec.train.ray_worker._SECONDS_BETWEEN_NOTES", -1)
    monkeypatch.setattr("xrec.train.ray_worker.note", notes.append)
    train_adapter_here(worker, config_of(workspace, tmp_path, max_steps=3))
    told = [re.sub(r"[\d.]+ s to go|loss [\d.]+", "...", note) for note in notes]
    assert told == [
        "step 1 of 3; epoch 1, ...",
        "step 2 of 3, ...; epoch 1, ...",
        "step 3 of 3, ...; epoch 1, ...",
    ]


def hold_rows(monkeypatch: pytest.MonkeyPatch, most_rows: int) -> list[int]:
    """Make the GPU's memory hold steps over `most_rows` rows; return the numbers that are tried."""
    tried: list[int] = []
    go = ExplanationLoss.forward

    def forward(module: ExplanationLoss, examples: Sequence[Any], teachers: None = None) -> Tensor:
        tried.append(len(examples))
        if len(examples) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        torch.rand(3)  # as noise and dropout do
        return go(module, examples)

    monkeypatch.setattr(ExplanationLoss, "forward", forward)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**6))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    return tried


def test_micro_batch_size_that_is_tried_gives_the_run_with_that_size_and_is_kept_elsewhere(
    workspace, tmp_path, monkeypatch
):
    with FakeGPU():
        tried = hold_rows(monkeypatch, most_rows=4)
        settings: dict[str, Any] = {"max_steps": 1, "model": RANDOM}
        worker = become_worker(monkeypatch, tmp_path / "4", GPU)
        expected = train_adapter_here(
            worker, config_of(workspace, tmp_path, micro_batch_size=4, **settings)
        )
        tried.clear()
        worker = become_worker(monkeypatch, tmp_path / "auto", GPU)
        config = config_of(workspace, tmp_path, micro_batch_size="auto", **settings)
        assert train_adapter_here(worker, config) == expected
        assert tried[:3] == [16, 8, 4]
        tried = hold_rows(monkeypatch, most_rows=16)  # a larger GPU
        training = config.training.model_copy(update={"max_steps": 2})
        rows = train_adapter_here(worker, config.model_copy(update={"training": training}))
    assert [(row["step"], row["micro_batch_size"]) for row in rows] == [(1, 4), (2, 4)]
    assert max(tried) == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_trial_step_in_16_bits_changes_no_tensor(workspace, tmp_path, monkeypatch, dtype):
    """Buffers stay in float32: the rotary frequencies in 16 bits would be other positions."""
    become_worker(monkeypatch, tmp_path, CPU)
    config = config_of(workspace, tmp_path, dtype=dtype)
    data = adapter_data(config)
    model, _ = build_model(config, data)

    def tensors() -> dict[str, Tensor]:
        named = dict((*model.named_parameters(), *model.named_buffers()))
        return {name: tensor.detach().clone() for name, tensor in named.items()}

    before = tensors()
    try_step(config, model, [data.train[0], data.train[1]])
    after = tensors()
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert before["model.rotary_emb.inv_freq"].dtype == torch.float32
    for key, tensor in after.items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_engines_model_is_loaded_straight_onto_the_workers_device_with_adapters_and_buffers(
    workspace, tmp_path, monkeypatch, gpu
):
    """Otherwise each worker of a host would have the whole model in the host's memory first."""
    become_worker(monkeypatch, tmp_path, gpu)
    load = Mock(wraps=AutoModelForCausalLM.from_pretrained)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    config = config_of(workspace, tmp_path)
    data = adapter_data(config)
    model, adapters = build_model(config, data)
    module = build_engine(model, config, data, num_steps=2).module
    assert load.call_args.kwargs["device_map"] == {"": "cuda:0"}
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    assert {name.rsplit(".")[-1] for name in tensors} >= {"mean", "std", "scale", "inv_freq"}
    assert {tensor.device for tensor in tensors.values()} == {gpu}
    assert adapters.user.weight is module.model.get_input_embeddings().user_adapter.weight


def test_parameters_that_are_sharded_stay_where_they_are():
    with FakeGPU():
        module = torch.nn.BatchNorm1d(2)
        module.weight.ds_tensor = torch.zeros(1)
        move_to_device(module, GPU)
        assert module.weight.device == CPU
        assert module.bias.device == module.running_mean.device == GPU


def test_deepspeed_is_given_the_gpu_that_ray_gave_this_worker(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second worker of its node, which sees one GPU
    monkeypatch.setattr("ray.train.torch.get_device", lambda: GPU)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    prepare_worker(1, None)
    assert os.environ["LOCAL_RANK"] == "0"


# The graph


def graph_worker(config: PretrainGraphConfig) -> GraphWorker:
    dataset = read_dataset(open_location(config.artifact("dataset")))
    return GraphWorker(config, GraphData.of(dataset, with_aspects=config.model.aspects), "run")


def train_graph_here(worker: OneWorker, config: PretrainGraphConfig) -> list[dict[str, Any]]:
    dataset = read_dataset(open_location(config.artifact("dataset")))
    data = GraphData.of(dataset, with_aspects=config.model.aspects)
    validation = HeldOut.of(dataset, data, config.training).part(0, worker.world_size)
    training = graph_worker(config)
    while not training.has_finished:
        training.run_epoch(validation)
    return [{key: row[key] for key in ("epoch", "loss", "ndcg@20")} for row in worker.reports]


BPR = {"loss": {"kind": "bpr"}, "l2_weight": 1e-2}


@pytest.mark.parametrize(
    ("parallelism", "world_size", "with_aspects", "training"),
    [
        ("replicated", 1, False, {}),
        ("replicated", 2, False, BPR),
        ("replicated", 1, True, {}),
        ("partitioned", 2, False, BPR),
        ("partitioned", 2, True, {}),
    ],
)
def test_graph_worker_on_a_gpu_has_the_figures_of_a_cpu_and_resumes(
    town_with_aspects,
    make_graph_config,
    tmp_path,
    monkeypatch,
    parallelism,
    world_size,
    with_aspects,
    training,
):
    def config(num_epochs: int) -> PretrainGraphConfig:
        return make_graph_config(
            tmp_path,
            parallelism=parallelism,
            workspace=town_with_aspects,
            model={"aspects": with_aspects},
            num_epochs=num_epochs,
            **training,
        )

    on_cpu = become_worker(monkeypatch, tmp_path / "cpu", CPU, world_size)
    expected = train_graph_here(on_cpu, config(2))
    with FakeGPU(nccl=True):
        worker = become_worker(monkeypatch, tmp_path / "gpu", GPU, world_size)
        assert train_graph_here(worker, config(2)) == expected
        if parallelism == "replicated":  # otherwise each worker writes its part of a checkpoint
            resumed = train_graph_here(worker, config(3))
            assert [row["epoch"] for row in resumed] == [1, 2, 3]


def test_graph_worker_reads_no_loss_of_a_step_that_is_not_logged(
    make_graph_config, tmp_path, monkeypatch
):
    become_worker(monkeypatch, tmp_path, CPU)
    training = graph_worker(make_graph_config(tmp_path / "graph"))
    monkeypatch.setattr("xrec.train.ray_worker._last_note", math.inf)
    read = Mock(side_effect=AssertionError("a number was read from the device"))
    monkeypatch.setattr(Tensor, "__float__", read)
    _, num_steps = training.train_epoch(1)
    assert num_steps == 4
