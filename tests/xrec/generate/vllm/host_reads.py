"""Counts the operations by which a host reads a tensor, and so would wait for a GPU.

They are counted on any device, so that a run on a CPU shows what the same code does on a GPU.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {
    "aten::_local_scalar_dense",  # item, bool, int, float
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
# Where an index is a mask, the number of its places is read.
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_CALLS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


class HostReads:
    """Within this context `counts` has the number of reads by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> "HostReads":
        self._stack.enter_context(_Operations(self.counts))
        self._stack.enter_context(_Calls(self.counts))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


class _Operations(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        by_mask = name in _INDEXED and any(
            isinstance(leaf, Tensor)
            and not leaf.dtype.is_floating_point
            and leaf.element_size() == 1
            for leaf in tree_leaves(args[1])
        )
        if name in _READS or by_mask:
            self._counts[name] += 1
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _CALLS:
            self._counts[getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))
