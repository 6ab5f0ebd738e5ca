"""Training where the device is a GPU: nothing mixes devices, and NCCL gets no tensor of the CPU.

The GPU is not there (tests/fake_gpu.py), and neither are Ray and DeepSpeed (one_gpu_worker.py). All
that happens between them is the product's code, and its figures are those of a CPU.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.decoders import tiny_image_model
from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.toy import attach_toy, toy_model, toy_tokenizer
from tests.xrec.train.adapter_town import build_workspace, make_config
from tests.xrec.train.one_gpu_worker import OneWorker, become_worker
from xrec.config.graph import PretrainGraphConfig
from xrec.data.dataset import read_dataset
from xrec.errors import TrainingError
from xrec.llm.examples import Example
from xrec.storage import open_location
from xrec.train.adapter import AdapterWorker, ExplanationLoss, build_engine
from xrec.train.data import HeldOut, load_adapter_data, split_edges
from xrec.train.deepspeed_engine import check_device, load_frozen_model, move_to_device
from xrec.train.graph import GraphWorker, start_embeddings
from xrec.train.prefix_cache import PrefixCache
from xrec.train.ray_worker import prepare_worker

V = 64
EXAMPLES = [
    Example([5, 9, V, V + 5], [6, 7, 2]),
    Example([5, 8, 9, V + 1, 9, V + 6], [8, 2]),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with FakeGPU(nccl=True):
        yield GPU


# The adapter


@pytest.mark.parametrize("budget_bytes", [0, 2**20])
def test_explanation_loss_on_a_gpu_is_that_of_a_cpu(budget_bytes: int) -> None:
    def loss_and_gradients(device: torch.device) -> tuple[float, dict[str, Any]]:
        model = toy_model()
        attach_toy(model, "direct")
        move_to_device(model, device)
        module = ExplanationLoss(model, PrefixCache(model, EXAMPLES, budget_bytes=budget_bytes))
        for _ in range(2):  # the second time, beginnings come from the cache
            nll = module.train()(EXAMPLES)
            torch.manual_seed(0)
            module.zero_grad()
            nll = module(EXAMPLES)
            nll.backward()
        assert nll.device == device
        return nll.item(), {
            name: parameter.grad.tolist()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }

    expected = loss_and_gradients(CPU)
    with FakeGPU():
        assert loss_and_gradients(GPU) == expected


def train_adapter_here(worker: OneWorker, config: Any) -> list[dict[str, Any]]:
    data = load_adapter_data(config)
    training = AdapterWorker(config, data, "run")
    while not training.has_finished:
        training.run_epoch()
    return [row for row in worker.reports if "train_loss" in row]


LOSSES = ("train_loss", "validation_loss", "padding_share", "prefix_hit_share")


@pytest.mark.parametrize("world_size", [1, 2])
def test_adapter_worker_on_a_gpu_trains_validates_and_resumes_as_on_a_cpu(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    def train(device: torch.device) -> list[dict[str, Any]]:
        worker = become_worker(monkeypatch, tmp_path / device.type, device, world_size)
        for max_steps in (2, 3):  # the second run goes on from the first one's checkpoint
            config = make_config(
                workspace,
                num_workers=world_size,
                zero_stage=0,
                num_epochs=2,
                steps_per_checkpoint=1,
                max_steps=max_steps,
            )
            rows = train_adapter_here(worker, config)
        return rows

    expected = train(CPU)
    with FakeGPU(nccl=True):
        rows = train(GPU)
    assert [row["step"] for row in rows] == [2, 3]
    for row, other in zip(rows, expected, strict=True):
        for key in LOSSES:
            assert row[key] == pytest.approx(other[key], rel=1e-5)  # with another attention


def test_build_engine_puts_adapters_and_buffers_on_the_workers_device(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    become_worker(monkeypatch, tmp_path, gpu)
    config = make_config(workspace, num_workers=1, zero_stage=0)
    engine, adapters = build_engine(config, load_adapter_data(config), num_steps=2)
    module = engine.module
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    assert {name.rsplit(".")[-1] for name in tensors} >= {"mean", "std", "scale", "inv_freq"}
    assert {tensor.device for tensor in tensors.values()} == {gpu}
    assert adapters.user.weight is module.model.get_input_embeddings().user_adapter.weight


def test_frozen_model_is_loaded_straight_onto_the_gpu(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    """Otherwise each worker of a host would have the whole model in the host's memory first."""
    become_worker(monkeypatch, tmp_path, gpu)
    load = Mock(wraps=AutoModelForCausalLM.from_pretrained)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    model = load_frozen_model(make_config(workspace, num_workers=1, zero_stage=0))
    assert load.call_args.kwargs["device_map"] == {"": "cuda:0"}
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device for tensor in tensors} == {gpu}


@pytest.mark.parametrize("left", ["mean", "scale", "weight"])
def test_check_device_names_the_tensor_that_is_elsewhere(left: str) -> None:
    with FakeGPU():
        model = toy_model()
        embedding = attach_toy(model, "direct")
        move_to_device(model, GPU)
        check_device(model, GPU)
        here = getattr(embedding.user_adapter, left).detach().cpu()
        if left == "weight":
            here = torch.nn.Parameter(here)
        setattr(embedding.user_adapter, left, here)
        with pytest.raises(TrainingError, match=rf"user_adapter\.{left} is on cpu, .*cuda:0"):
            check_device(model, GPU)


def test_parameters_that_are_sharded_stay_where_they_are() -> None:
    with FakeGPU():
        module = torch.nn.BatchNorm1d(2)
        module.weight.ds_tensor = torch.zeros(1)  # type: ignore[assignment]
        move_to_device(module, GPU)
        check_device(module, GPU)
        assert module.weight.device == CPU
        assert module.bias.device == module.running_mean.device == GPU  # type: ignore[union-attr]


def test_model_of_text_and_images_is_trained(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = toy_tokenizer()
    tiny_image_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = make_config(workspace, num_workers=1, zero_stage=0, num_epochs=1, max_steps=1)
    config = config.model_copy(
        update={"llm": config.llm.model_copy(update={"model": str(tmp_path / "llm")})}
    )
    with FakeGPU():
        (row,) = train_adapter_here(become_worker(monkeypatch, tmp_path, GPU), config)
    assert row["step"] == 1


def test_deepspeed_is_given_the_gpu_that_ray_gave_this_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second worker of its node, which sees one GPU
    monkeypatch.setattr("ray.train.torch.get_device", lambda: GPU)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    prepare_worker(1, None)  # type: ignore[arg-type]
    assert os.environ["LOCAL_RANK"] == "0"


# The graph


def graph_config(town: str, parallelism: str, **training: Any) -> PretrainGraphConfig:
    return PretrainGraphConfig.model_validate(
        {
            "workspace": town,
            "model": {"embedding_dim": 8, "num_layers": 2},
            "training": {
                "num_epochs": 2,
                "steps_per_epoch": 2,
                "micro_batch_size": 31,
                "learning_rate": 0.05,
                **training,
            },
            "parallelism": parallelism,
        }
    )


def train_graph_here(worker: OneWorker, config: PretrainGraphConfig) -> list[dict[str, Any]]:
    dataset = read_dataset(open_location(config.artifact("dataset")))
    edges = split_edges(dataset, "train")
    validation = HeldOut.of(dataset, "validation").part(0, worker.world_size)
    training = GraphWorker(config, edges, dataset.num_users, dataset.num_items, "run")
    while not training.has_finished:
        training.run_epoch(validation)
    return worker.reports


CASES = [
    ("replicated", 1, {}),
    ("replicated", 2, {"loss": {"kind": "bpr"}, "l2_weight": 1e-2}),
    ("partitioned", 2, {}),
    ("partitioned", 2, {"loss": {"kind": "bpr"}, "l2_weight": 1e-2}),
]


@pytest.mark.parametrize(("parallelism", "world_size", "training"), CASES)
def test_graph_worker_on_a_gpu_has_the_figures_of_a_cpu_and_resumes(
    town: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parallelism: str,
    world_size: int,
    training: dict[str, Any],
) -> None:
    config = graph_config(town, parallelism, **training)
    expected = train_graph_here(
        become_worker(monkeypatch, tmp_path / "cpu", CPU, world_size), config
    )
    with FakeGPU(nccl=True):
        worker = become_worker(monkeypatch, tmp_path / "gpu", GPU, world_size)
        rows = list(train_graph_here(worker, config))
        if parallelism == "replicated":  # otherwise each worker writes its part of a checkpoint
            more = config.training.model_copy(update={"num_epochs": 3})
            resumed = train_graph_here(worker, config.model_copy(update={"training": more}))
            assert [row["epoch"] for row in resumed] == [1, 2, 3]
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    assert [row["ndcg@20"] for row in rows] == [row["ndcg@20"] for row in expected]


def test_graph_worker_reads_no_loss_of_a_step_that_is_not_logged(
    town: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_worker(monkeypatch, tmp_path, CPU)
    dataset = read_dataset(open_location(f"{town}/dataset"))
    training = GraphWorker(
        graph_config(town, "replicated"),
        split_edges(dataset, "train"),
        dataset.num_users,
        dataset.num_items,
        "run",
    )
    monkeypatch.setattr("xrec.train.ray_worker._last_note", math.inf)
    read = Mock(side_effect=AssertionError("a number was read from the device"))
    monkeypatch.setattr(Tensor, "__float__", read)
    _, num_steps = training.train_epoch(1)
    assert num_steps == 2


def test_start_embeddings_are_on_the_device_that_collectives_send_from(
    town: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    from xrec.train.graph import build_partition

    become_worker(monkeypatch, tmp_path, gpu, world_size=2)
    config = graph_config(town, "partitioned")
    dataset = read_dataset(open_location(config.artifact("dataset")))
    edges: Tensor = split_edges(dataset, "train")
    sizes = dataset.num_users, dataset.num_items
    partition = build_partition("partitioned", edges, *sizes, rank=0, world_size=2)
    assert start_embeddings(config, edges, *sizes, partition, gpu).device == gpu
    with pytest.raises(RuntimeError, match="device type cpu"):
        start_embeddings(config, edges, *sizes, partition)
