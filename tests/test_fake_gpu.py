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


def test_tensors_are_where_they_were_made_or_moved():
    here, there = torch.ones(2), on_gpu(1, 2)
    assert (here.device.type, there.device) == ("cpu", GPU)
    for made in (
        there + 1,
        there * torch.tensor(2.0),
        torch.zeros_like(there),
        there.new_zeros(3),
        there.new_tensor(5),
        there[torch.tensor([1])],
        here.to("cuda"),
        here.to(there),
        here.cuda().double(),
        torch.zeros(2, device=there.device),
    ):
        assert made.device == GPU
    for made in (there.cpu(), there.to("cpu"), here + 1, torch.arange(3)):
        assert made.device.type == "cpu"
    assert there.sum().item() == 3
    assert (there > 1).any()
    assert there.tolist() == [1, 2]
    here.copy_(there)
    assert here.device.type == "cpu"


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


def test_numpy_does_not_read_from_it():
    with pytest.raises(TypeError, match="numpy"):
        on_gpu(1).numpy()


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


def test_module_keeps_its_parameters_when_it_is_moved():
    module = torch.nn.Linear(2, 1)
    weight = module.weight
    module.to("cuda")
    assert module.weight is weight
    assert weight.device == GPU
    with pytest.raises(RuntimeError, match="same device"):
        module(torch.ones(1, 2))


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
