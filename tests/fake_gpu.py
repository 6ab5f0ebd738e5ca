"""A GPU that is not there: tensors with data on the CPU that say they are on `cuda:0`.

Within `FakeGPU()` a tensor that is made on or moved to a GPU stays in CPU memory, and its storage
is remembered as being on `cuda:0`. Every operation of torch, in backward too, then checks its
tensors as CUDA's own kernels do and raises RuntimeError if devices are mixed:

- All tensors must be on one device. A 0-dimensional tensor on the CPU may enter an elementwise
  operation, an index into a tensor on the GPU may be on the CPU, and copies may go anywhere.
- Random numbers on the GPU cannot come from a generator of the CPU, and numpy cannot read from it.
- With `nccl`, a collective refuses tensors on the CPU, as a process group of NCCL does.

PyTorch's FakeTensorMode has such rules and no data, so `.item()` and `if x.any()` raise there.

Autograd makes tensors of its own in C++, without a word on their device. Their place is unknown,
and they go with any other.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU, META = torch.device("cpu"), torch.device("cuda:0"), torch.device("meta")
Place = torch.device | None

# A copy may go from any device to any other.
_COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::set_"}
# These take a 0-dimensional tensor of the CPU as an elementwise operation does.
_FILLS = {"aten::fill", "aten::fill_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.frombuffer}
_FACTORIES = {
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.zeros,
}
_MOVES = {Tensor.to: None, Tensor.cuda: GPU, Tensor.cpu: CPU}
_READS = {Tensor.numpy, Tensor.__array__}


class FakeGPU:
    """Within this context the process has a GPU; `nccl` says how its process groups send."""

    def __init__(self, *, nccl: bool = False) -> None:
        self._places = _Places()
        self._modes = (_Operations(self._places, nccl), _Calls(self._places))
        self._stack = ExitStack()

    def __enter__(self) -> "FakeGPU":
        for mode in self._modes:
            self._stack.enter_context(mode)
        free = mock.patch("torch.cuda.mem_get_info", return_value=(10**6, 10**6))
        self._stack.enter_context(free)
        # Autograd runs the gradients of Python functions without modes that see calls.
        self._stack.enter_context(mock.patch.object(BackwardCFunction, "apply", self._backward))
        return self

    @property
    def _backward(self) -> Callable[..., Any]:
        places, run = self._places, BackwardCFunction.apply

        def apply(context: Any, *gradients: Any) -> Any:
            with _Calls(places):
                return run(context, *gradients)

        return apply

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _Places:
    """Where storages are if not on the CPU; a place of None is unknown.

    The storages are kept, so that no other gets the address of one.
    """

    def __init__(self) -> None:
        self._places: dict[int, tuple[Any, Place]] = {}

    def of(self, tensor: Tensor) -> Place:
        if tensor.is_meta:
            return META
        storage = _storage(tensor)
        return CPU if storage is None else self._places.get(storage._cdata, (None, CPU))[1]

    def put(self, tensor: Tensor, place: Place) -> None:
        storage = None if tensor.is_meta else _storage(tensor)
        if storage is None:
            return
        if place == CPU:
            self._places.pop(storage._cdata, None)
        else:
            self._places[storage._cdata] = (storage, place and GPU)


def _storage(tensor: Tensor) -> Any:
    if tensor.layout == torch.sparse_csr:
        tensor = tensor.values()
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None  # a tensor without memory of its own, such as one of vmap


class _Operations(TorchDispatchMode):
    """Sees every operation that runs, whoever calls it, and checks the devices of its tensors."""

    def __init__(self, places: _Places, nccl: bool) -> None:
        super().__init__()
        self._places = places
        self._nccl = nccl

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        place = self._place(func, name, args, kwargs)
        result = func(*args, **kwargs)
        if place != CPU:
            for tensor in _tensors(result):
                self._places.put(tensor, place)
        return result

    def _place(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Place:
        """Return where the result is; raises RuntimeError if devices are mixed."""
        tensors = list(_tensors((args, kwargs)))
        places = [self._places.of(tensor) for tensor in tensors]
        if name.startswith("c10d::"):
            if self._nccl and CPU in places:
                raise RuntimeError(f"{name}: NCCL cannot send a tensor of the CPU")
            return CPU
        if name in _COPIES:
            return places[0]
        if name in _INDEXED:
            return self._place_of_indexed(name, args)
        if {CPU, GPU} <= set(places) and not _may_mix(func, tensors, places):
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, saw "
                + ", ".join(
                    f"{place} {tuple(tensor.shape)}"
                    for place, tensor in zip(places, tensors, strict=True)
                )
            )
        if GPU in places and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: expected a generator of {GPU}, saw one of the CPU")
        return next((place for place in (GPU, CPU, META) if place in places), None)

    def _place_of_indexed(self, name: str, args: tuple[Any, ...]) -> Place:
        indexed, indices, *others = args
        place = self._places.of(indexed)
        for index in _tensors(indices):
            if place == CPU and self._places.of(index) == GPU:
                raise RuntimeError(f"{name}: a tensor of the CPU was indexed by one of {GPU}")
        for values in _tensors(others):
            if {self._places.of(values), place} == {CPU, GPU} and values.dim():
                raise RuntimeError(f"{name}: values are on another device than {place}")
        return place


def _may_mix(func: Any, tensors: list[Tensor], places: list[Place]) -> bool:
    """Whether only 0-dimensional tensors are on the CPU and the operation is elementwise."""
    return (torch.Tag.pointwise in func.tags or func._schema.name in _FILLS) and all(
        place != CPU or tensor.dim() == 0 for place, tensor in zip(places, tensors, strict=True)
    )


class _Calls(TorchFunctionMode):
    """Sees the calls of Python code: takes `cuda` out of their arguments, and answers `.device`."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.device.__get__:
            return self._places.of(args[0]) or CPU
        if func == Tensor.is_cuda.__get__:
            return self._places.of(args[0]) == GPU
        if func in _READS and self._places.of(args[0]) == GPU:
            raise TypeError(f"can't convert {GPU} device type tensor to numpy")
        if func in _MOVES:
            return self._move(func, args, kwargs)
        if func is Tensor.new_tensor:
            device = kwargs.pop("device", None) or self._places.of(args[0]) or CPU
            return self._made(func(*args, **kwargs), torch.device(device))
        if "device" in kwargs:
            return self._make(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _FACTORIES or (func in _FROM_DATA and not _aliases(result, args)):
            self._places.put(result, CPU)
        return result

    def _make(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Call a function that makes tensors, without the device, and put them there."""
        asked = kwargs["device"]
        device = None if asked is None else torch.device(asked)
        on_gpu = device is not None and device.type == "cuda"
        if on_gpu and kwargs.get("generator") is not None:
            raise RuntimeError(f"expected a generator of {GPU}, saw one of the CPU")
        if not on_gpu:
            result = func(*args, **kwargs)
            if device is not None:
                for tensor in _tensors(result):
                    self._places.put(tensor, CPU)
            return result
        return self._made(func(*args, **{**kwargs, "device": CPU}), device)

    def _made(self, result: Any, device: torch.device) -> Any:
        for tensor in _tensors(result):
            self._places.put(tensor, device)
        return result

    def _move(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        tensor, *others = args
        if func is not Tensor.to:
            device, dtype = _MOVES[func], None
        elif others and isinstance(others[0], Tensor):
            device, dtype = self._places.of(others[0]) or CPU, others[0].dtype
        else:
            plain = {name: value for name, value in kwargs.items() if name != "copy"}
            device, dtype, *_ = torch._C._nn._parse_to(*others, **plain)
        here = self._places.of(tensor)
        dtype = dtype or tensor.dtype
        if here == META or device == META:
            return func(*args, **kwargs)
        if device is None or (here is not None and device.type == here.type):
            return tensor.to(dtype, copy=bool(kwargs.get("copy", False)))
        moved = tensor.to(dtype, copy=True)
        self._places.put(moved, device)
        return moved


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _aliases(result: Tensor, args: Iterable[Any]) -> bool:
    return any(
        argument.untyped_storage()._cdata == result.untyped_storage()._cdata
        for argument in _tensors(list(args))
    )


def refuse_cpu(*tensors: Tensor) -> None:
    """Do what NCCL does with tensors on the CPU: raise RuntimeError."""
    if any(tensor.device.type == "cpu" for tensor in tensors):
        raise RuntimeError("No backend type associated with device type cpu")
