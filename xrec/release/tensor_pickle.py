"""Tensors from pickles of unknown origin: no code in them is run, and only tensors are accepted.

A pickle is a program. `read_state_dict` uses `torch.load(weights_only=True)`, which runs none of
it. That cannot read what `pickle.dump(tensor)` wrote. `read_tensor` does, with an unpickler that
knows three names and turns their calls into records.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xrec.errors import DataError

# What torch and pickle raise for a file that is cut, has another format, or holds no tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors that `torch.save(module.state_dict())` wrote, by name, float32 on the CPU.

    Raises DataError, with the file's `name`, for anything else.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            f"{name}: not a file of tensors only, as torch.save(module.state_dict()) writes it; "
            "nothing in it was run. Check where it is from"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise DataError(
            f"{name}: expected a state dict (tensors by name), saw a {type(state).__name__}"
        )
    return {key: _plain(value, f"{name}: {key}") for key, value in state.items()}


def read_tensor(data: bytes, name: str) -> Tensor:
    """The tensor that `pickle.dump(tensor)` wrote with protocol 3 or later, float32 on the CPU.

    Raises DataError, with the file's `name`, for anything else.
    """
    try:
        _check_operations(data)
        record = _TensorUnpickler(io.BytesIO(data)).load()
        if not isinstance(record, _Rebuild):
            raise pickle.UnpicklingError(f"it holds a {type(record).__name__}")
        tensor = _rebuild(record)
    except _UNREADABLE as error:
        raise DataError(
            f"{name}: not one tensor as pickle.dump(tensor) writes it ({error}); nothing in it was "
            "run. Check where it is from"
        ) from error
    return _plain(tensor, name)


class _Storage(NamedTuple):
    """The argument of a call of torch.storage._load_from_bytes: what torch.save wrote.

    The call is not made.
    """

    data: bytes


class _Rebuild(NamedTuple):
    """The arguments of a call of torch._utils._rebuild_tensor_v2, which is not made."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool
    backward_hooks: OrderedDict[Any, Any]


_RECORDS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("collections", "OrderedDict"): OrderedDict,
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A record in place of the function; any other name is refused, so nothing is called."""
        if (module, name) not in _RECORDS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return _RECORDS[module, name]


def _check_operations(data: bytes) -> None:
    """Refuse the operation BUILD: it may set attributes of classes, and no tensor needs it."""
    if any(operation.name == "BUILD" for operation, _, _ in pickletools.genops(data)):
        raise pickle.UnpicklingError("it sets attributes")


def _rebuild(record: _Rebuild) -> Tensor:
    """The tensor as a view of its storage.

    The view is checked to lie within the storage, because `set_` enlarges a storage that is too
    small, and the tensor then shows what happens to be in memory.
    """
    if not isinstance(record.storage, _Storage):
        raise pickle.UnpicklingError("its tensor has no storage")
    storage = torch.load(io.BytesIO(record.storage.data), map_location="cpu", weights_only=True)
    last = record.offset + sum(
        (length - 1) * step for length, step in zip(record.size, record.stride, strict=True)
    )
    if min([record.offset, *record.size, *record.stride]) < 0 or last >= len(storage):
        raise pickle.UnpicklingError(
            f"offset {record.offset}, size {record.size} and stride {record.stride} exceed its "
            f"storage of {len(storage)}"
        )
    return torch.empty(0, dtype=storage.dtype).set_(
        storage, record.offset, record.size, record.stride
    )


def _plain(value: Any, name: str) -> Tensor:
    """A contiguous float32 copy.

    Raises DataError if `value` is no dense, finite tensor of floating-point numbers.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype not in _DTYPES:
        seen = (
            f"{value.dtype} in layout {value.layout}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise DataError(f"{name}: expected a dense tensor of floating-point numbers, saw {seen}")
    tensor = value.detach().float().contiguous().clone()
    if not torch.isfinite(tensor).all():
        raise DataError(
            f"{name}: holds NaN or infinity; the file is damaged, or its training diverged"
        )
    return tensor
