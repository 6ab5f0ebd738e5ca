"""Training where the device is a GPU: nothing mixes devices, and NCCL gets no tensor of the CPU.

The GPU is not there (tests/fake_gpu.py), and neither are Ray and DeepSpeed (one_gpu_worker.py). All
that happens between them is the product's code, and its figures are those of a CPU.
"""

import math
import os
from collections.abc import Iterator, Sequence
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
from xrec.errors import ModelError, TrainingError
from xrec.llm.examples import Example
from xrec.storage import open_location
from xrec.train.adapter_model import ExplanationLoss, build_engine, build_model, try_step
from xrec.train.adapter_worker import AdapterWorker
from xrec.train.data import HeldOut, load_adapter_data, split_edges
from xrec.train.deepspeed_engine import check_device, load_frozen_model, move_to_device
from xrec.train.graph_start import start_embeddings
from xrec.train.graph_worker import GraphWorker
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


class Memory:
    """A GPU's memory that holds a step over `most_rows` rows; the peak is a GB a row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most_rows: int, free_gb: float = 80):
        self.tried: list[int] = []
        self.peak = 0
        go = ExplanationLoss.forward

        def forward(module: ExplanationLoss, examples: Sequence[Example]) -> Tensor:
            self.tried.append(len(examples))
            if len(examples) > most_rows:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.peak = len(examples) * 10**9
            torch.rand(3)  # as noise and dropout do
            return go(module, examples)

        monkeypatch.setattr(ExplanationLoss, "forward", forward)
        free = int(free_gb * 1e9)
        for name, function in {
            "mem_get_info": lambda device: (free, 80 * 10**9),
            "memory_allocated": lambda device: 0,
            "max_memory_allocated": lambda device: self.peak,
            "reset_peak_memory_stats": lambda device: None,
            "empty_cache": lambda: None,
            "get_rng_state": lambda device: torch.zeros(1),
            "set_rng_state": lambda state, device: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without times."""
    timed = ("seconds", "tokens_per_second", "tflops_per_worker")
    return [{key: row[key] for key in row if key not in timed} for row in rows]


def test_micro_batch_size_that_is_tried_gives_the_run_with_that_size_bit_by_bit(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(size: int | str) -> list[dict[str, Any]]:
        worker = become_worker(monkeypatch, tmp_path / f"{size}", GPU)
        config = make_config(
            workspace,
            num_workers=1,
            zero_stage=0,
            num_epochs=1,
            max_steps=1,
            max_validation_pairs=4,
            micro_batch_size=size,
            model={"gating_noise": True, "dropout": 0.2},
        )
        return figures(train_adapter_here(worker, config))

    with FakeGPU():
        memory = Memory(monkeypatch, most_rows=4)
        expected = train(4)
        memory.tried.clear()
        found = train("auto")
    assert found == expected
    assert found[0]["micro_batch_size"] == 4
    assert memory.tried[:4] == [1, 2, 4, 8]
    assert max(memory.tried[4:]) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trial_step_in_16_bits_changes_no_tensor(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Buffers stay in float32: the rotary frequencies in 16 bits would be other positions."""
    become_worker(monkeypatch, tmp_path, CPU)
    name = str(dtype).removeprefix("torch.")
    config = make_config(workspace, num_workers=1, zero_stage=0, dtype=name)
    data = load_adapter_data(config)
    model, _ = build_model(config, data)

    def tensors() -> dict[str, Tensor]:
        named = dict((*model.named_parameters(), *model.named_buffers()))
        return {name: tensor.detach().clone() for name, tensor in named.items()}

    before = tensors()
    try_step(config, model, data.train[:2])
    after = tensors()
    assert {before[key].dtype for key, _ in model.named_parameters()} == {dtype}
    assert before["model.rotary_emb.inv_freq"].dtype == torch.float32
    for key, tensor in after.items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_micro_batch_size_that_was_tried_is_kept_by_a_run_that_goes_on_elsewhere(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeGPU():
        worker = become_worker(monkeypatch, tmp_path, GPU)
        for most_rows, max_steps in ((4, 1), (16, 2)):
            memory = Memory(monkeypatch, most_rows)
            config = make_config(
                workspace,
                num_workers=1,
                zero_stage=0,
                num_epochs=2,
                micro_batch_size="auto",
                max_steps=max_steps,
                max_validation_pairs=4,
            )
            rows = train_adapter_here(worker, config)
    assert [(row["step"], row["micro_batch_size"]) for row in rows] == [(1, 4), (2, 4)]
    assert max(memory.tried) == 4


@pytest.mark.parametrize(("free_gb", "expected"), [(3.4, 2), (2.2, 1), (20.0, 16)])
def test_micro_batch_size_leaves_a_tenth_of_the_free_memory(
    workspace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: torch.device,
    free_gb: float,
    expected: int,
) -> None:
    become_worker(monkeypatch, tmp_path, gpu)
    notes = Mock()
    monkeypatch.setattr("xrec.train.micro_batch.note", notes)
    config = make_config(workspace, num_workers=1, zero_stage=0, micro_batch_size="auto")
    Memory(monkeypatch, 16, free_gb)
    data = load_adapter_data(config)
    worker = AdapterWorker(config, data, "run")
    assert worker.progress.micro_batch_size == expected
    (text,) = notes.call_args.args
    assert "1 row(s): 1.00 GB" in text
    assert text.endswith(f"auto: training.micro_batch_size = {expected}")


def test_micro_batch_size_where_not_one_row_fits_is_refused_with_advice(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    become_worker(monkeypatch, tmp_path, gpu)
    config = make_config(workspace, num_workers=1, zero_stage=0, micro_batch_size="auto")
    Memory(monkeypatch, 0)
    with pytest.raises(
        ModelError, match=r"one row does not fit(.|\n)*1 row.*: out of memory"
    ) as seen:
        AdapterWorker(config, load_adapter_data(config), "run")
    assert "gradient_checkpointing=true" in str(seen.value)


def test_micro_batch_size_is_the_least_of_all_workers(
    workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    become_worker(monkeypatch, tmp_path, gpu, world_size=2)
    monkeypatch.setattr("xrec.train.micro_batch.least_of_workers", lambda size: min(size, 2.0))
    config = make_config(workspace, num_workers=2, zero_stage=0, micro_batch_size="auto")
    Memory(monkeypatch, 8)
    worker = AdapterWorker(config, load_adapter_data(config), "run")
    assert worker.progress.micro_batch_size == 2


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
    from xrec.train.graph_start import build_partition

    become_worker(monkeypatch, tmp_path, gpu, world_size=2)
    config = graph_config(town, "partitioned")
    dataset = read_dataset(open_location(config.artifact("dataset")))
    edges: Tensor = split_edges(dataset, "train")
    sizes = dataset.num_users, dataset.num_items
    partition = build_partition("partitioned", edges, *sizes, rank=0, world_size=2)
    assert start_embeddings(config, edges, *sizes, partition, gpu).device == gpu
    with pytest.raises(RuntimeError, match="device type cpu"):
        start_embeddings(config, edges, *sizes, partition)
