"""The GPU that is not there raises where a real one does, and nowhere else."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.fake_gpu import GPU, FakeGPU


@pytest.fixture(autouse=True)
def gpu():
    with FakeGPU():
        yield


def on_gpu(*values: float) -> Tensor:
    return torch.tensor(values, device="cuda")


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: there.add_(here),
        lambda here, there: torch.stack([there[0], here[0]]),
        lambda here, there: torch.cat([there, here]),
        lambda here, there: here[there.long()],
        lambda here, there: there.index_add_(0, here.long(), there),
        lambda here, there: there[None] @ here[:, None],
        lambda here, there: here + there[0],
        lambda here, there: there.normal_(generator=torch.Generator()),
        lambda here, there: torch.rand(2, generator=torch.Generator(), device="cuda"),
    ],
)
def test_mixing_devices_raises(mix):
    with pytest.raises(RuntimeError, match=r"device|indexed|generator"):
        mix(torch.zeros(2), on_gpu(0, 1))


class _Doubled(torch.autograd.Function):
    """Its gradient comes from a tensor on the CPU."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value * 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.full((2,), 2.0)


def test_backward_is_checked_too():
    value = on_gpu(1.0, 2.0).requires_grad_()
    (value * value).sum().backward()
    assert value.grad is not None
    assert value.grad.device == GPU
    with pytest.raises(RuntimeError, match="same device"):
        _Doubled.apply(value).sum().backward()


def test_nccl_sends_from_the_gpu_only(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        dist.all_reduce(torch.ones(1))
        with FakeGPU(nccl=True):
            dist.all_reduce(torch.ones(1, device="cuda"))
            for send in (
                lambda: dist.all_reduce(torch.ones(1)),
                lambda: dist.broadcast(torch.ones(1), 0),
                lambda: dist.all_gather_into_tensor(torch.ones(1), torch.ones(1)),
                lambda: dist.reduce_scatter_tensor(torch.ones(1), torch.ones(1)),
            ):
                with pytest.raises(RuntimeError, match="NCCL"):
                    send()
    finally:
        dist.destroy_process_group()
