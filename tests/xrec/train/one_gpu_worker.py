"""A training worker in the test's own process: Ray Train, DeepSpeed and NCCL are stand-ins.

The worker is rank 0 of any number of workers, on a device of the test's choice. `StubEngine` makes
steps as DeepSpeed does at stage 1, but it moves no module: DeepSpeed does not move a module either
whose parameters were sharded when they were loaded. The collectives give what rank 0 would get if
all others sent the same, and refuse tensors on the CPU where NCCL would.
"""

import contextlib
import logging
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.fake_gpu import refuse_cpu


class StubEngine:
    """The part of DeepSpeed's engine that training uses, at ZeRO stage 1 in float32."""

    def __init__(
        self, module: nn.Module, optimizer: Any, lr_scheduler: Any, settings: Any, device: Any
    ) -> None:
        self.module, self.device = module, device
        self.optimizer = self.basic_optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.global_steps = 0
        self._accumulation = settings["gradient_accumulation_steps"]
        self._num_backward = 0

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulation).backward()
        self._num_backward += 1

    def step(self) -> None:
        if self._num_backward % self._accumulation == 0:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:  # DeepSpeed gives zeros to the optimizer
                        parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.lr_scheduler.step()
            self.global_steps += 1

    def gradient_accumulation_steps(self) -> int:
        return int(self._accumulation)

    def zero_optimization_stage(self) -> int:
        return 1

    def was_step_applied(self) -> bool:
        return True

    def fp16_enabled(self) -> bool:
        return False

    def get_lr(self) -> list[float]:
        return list(self.lr_scheduler.get_last_lr())


class OneWorker:
    """What this process takes for Ray Train: reports, and the files of the last checkpoint."""

    def __init__(self, folder: Path, device: torch.device, world_size: int) -> None:
        self.reports: list[dict[str, Any]] = []
        self.device, self.world_size = device, world_size
        self._folder, self._num_checkpoints = folder, 0

    def get_world_rank(self) -> int:
        return 0

    def get_local_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return self.world_size

    def report(self, metrics: dict[str, Any], checkpoint: Any = None) -> None:
        self.reports.append(metrics)
        if checkpoint is not None:
            self._num_checkpoints += 1
            shutil.copytree(checkpoint.path, self._folder / str(self._num_checkpoints))

    def last_checkpoint(self) -> Any:
        if not self._num_checkpoints:
            return None
        return ray.train.Checkpoint.from_directory(str(self._folder / str(self._num_checkpoints)))


def become_worker(
    monkeypatch: pytest.MonkeyPatch, folder: Path, device: torch.device, world_size: int = 1
) -> OneWorker:
    """Make this process rank 0 of `world_size` training workers, on `device`."""
    worker = OneWorker(folder, device, world_size)
    monkeypatch.setattr("ray.train.get_context", lambda: worker)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: device)
    monkeypatch.setattr("ray.train.report", worker.report)
    monkeypatch.setattr("ray.train.get_checkpoint", worker.last_checkpoint)
    monkeypatch.setattr("ray.train.get_all_reported_checkpoints", lambda: None)
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: None)
    monkeypatch.setattr("xrec.train.graph_model.RowsApart", lambda: None)
    # Weights are loaded in this thread, where a FakeGPU sees it, and no memory is asked for before.
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    monkeypatch.setattr("transformers.modeling_utils.caching_allocator_warmup", lambda *_: None)
    deepspeed = _deepspeed(device)
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setitem(sys.modules, "deepspeed.utils", deepspeed.utils)
    for name, collective in _collectives(world_size).items():
        monkeypatch.setattr(dist, name, _on(device, collective))
    return worker


def _deepspeed(device: torch.device) -> Any:
    module: Any = types.ModuleType("deepspeed")
    module.logger = logging.getLogger("deepspeed-stub")
    module.ops = types.SimpleNamespace(__compatible_ops__={})
    module.utils = utils = types.SimpleNamespace()
    engines: list[StubEngine] = []

    def moment(parameter: Any, key: str) -> Any:
        return engines[-1].optimizer.state[parameter][key]

    utils.safe_get_full_fp32_param = lambda parameter: parameter.detach()
    utils.safe_get_full_optimizer_state = moment
    utils.safe_set_full_fp32_param = lambda parameter, value: parameter.data.copy_(value)
    utils.safe_set_full_optimizer_state = lambda parameter, value, key: moment(
        parameter, key
    ).copy_(value)
    module.init_distributed = lambda **_: None
    module.zero = types.SimpleNamespace(
        GatheredParameters=lambda *_, **__: contextlib.nullcontext()
    )

    def initialize(
        *, model: Any, optimizer: Any, lr_scheduler: Any, config: Any, **_: Any
    ) -> tuple[StubEngine]:
        engines.append(StubEngine(model, optimizer, lr_scheduler, config, device))
        return (engines[-1],)

    module.initialize = initialize
    return module


def _collectives(world_size: int) -> dict[str, Callable[..., None]]:
    def all_reduce(tensor: Tensor, *_: Any, **__: Any) -> None:
        """Others have nothing to add."""

    def broadcast(tensor: Tensor, *_: Any, **__: Any) -> None:
        """It comes from this worker."""

    def all_gather_into_tensor(output: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
        output.copy_(torch.cat([tensor] * world_size))

    def reduce_scatter_tensor(output: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
        output.copy_(tensor[: len(output)])

    return {
        function.__name__: function
        for function in (all_reduce, broadcast, all_gather_into_tensor, reduce_scatter_tensor)
    }


def _on(device: torch.device, collective: Callable[..., None]) -> Callable[..., None]:
    def checked(*args: Any, **kwargs: Any) -> None:
        if device.type == "cuda":
            refuse_cpu(*(value for value in args if isinstance(value, Tensor)))
        collective(*args, **kwargs)

    return checked
