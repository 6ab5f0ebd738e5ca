"""The vectors that tokens add in every layer, in a buffer that vLLM's graphs read.

One step of vLLM mixes parts of prompts and single generated tokens. Row n of the buffer is what
token n of the step adds; it is zero for a text token. The graph adds the rows in every step, so it
need not decide which tokens are collaborative. The rules are those of xrec.llm.injection. Both act
at the fused qkv projection: `projected` adds to its input and `direct` to its output, of which each
tensor-parallel rank has a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xrec.config.adapter import Injection
from xrec.errors import ModelError
from xrec.llm.injection import fold_heads


@dataclass(frozen=True)
class Projection:
    """The heads of each layer's fused qkv projection that one tensor-parallel rank has.

    If there are fewer key heads than ranks, several ranks have the same key head, as in vLLM's
    QKVParallelLinear.
    """

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    rank: int = 0
    world_size: int = 1

    def width(self, rule: Injection) -> int:
        """The number of elements that a token adds under `rule`.

        `projected` adds H elements to the projection's input, `direct` adds to this rank's q, k and
        v, and `none` adds nothing.
        """
        num_heads = self.num_heads // self.world_size + 2 * self._num_local_key_value_heads
        return {"projected": self.hidden_size, "direct": num_heads * self.head_dim, "none": 0}[rule]

    def added(self, adapted: Tensor, rule: Injection) -> Tensor:
        """What the adapted vectors a (N, H) add under `rule`, (N, width).

        Raises ModelError for `direct` if the query is not as wide as the hidden state.
        """
        if rule == "projected":
            return adapted
        if rule == "none":
            return adapted[:, :0]
        if self.num_heads * self.head_dim != self.hidden_size:
            raise ModelError(
                f"direct: q is {self.num_heads * self.head_dim} wide, h {self.hidden_size}; "
                "direct needs the same width: use model.injection=projected"
            )
        query = (
            adapted.unflatten(-1, (self.num_heads, self.head_dim))
            .chunk(self.world_size, dim=1)[self.rank]
            .flatten(1)
        )
        folded = fold_heads(adapted, self.num_key_value_heads, self.head_dim).unflatten(
            -1, (self.num_key_value_heads, self.head_dim)
        )
        start = self.rank * self.num_key_value_heads // self.world_size
        key = folded[:, start : start + self._num_local_key_value_heads].flatten(1)
        return torch.cat([query, key, key], dim=-1)

    @property
    def _num_local_key_value_heads(self) -> int:
        return max(1, self.num_key_value_heads // self.world_size)


class InjectionBuffer(nn.Module):
    """What the tokens of one step add under `rule`, in `values` (max_num_tokens, width).

    The buffer keeps its address, because captured graphs read it there. It is zero where nothing
    is to be added.
    """

    values: Tensor

    def __init__(self, projection: Projection, rule: Injection, max_num_tokens: int):
        super().__init__()
        self.projection, self.rule = projection, rule
        self.register_buffer(
            "values", torch.zeros(max_num_tokens, projection.width(rule)), persistent=False
        )
        self._num_written = 0

    def write(self, adapted: Tensor) -> None:
        """Set what the vectors `adapted` (N, H) of the step's first N tokens add."""
        self.values[len(adapted) : self._num_written].zero_()
        self.values[: len(adapted)] = self._added(adapted)
        self._num_written = len(adapted)

    def write_at(self, rows: Tensor, adapted: Tensor, num_tokens: int) -> None:
        """Set what the vectors `adapted` (N, H) of the tokens `rows` (N,), int64, add.

        They are among the first `num_tokens` tokens of the step; the others add nothing.
        """
        self.clear()
        self.values.index_copy_(0, rows, self._added(adapted))
        self._num_written = num_tokens

    def clear(self) -> None:
        """Let no token add anything. If that is so already, nothing is computed."""
        if self._num_written:
            self.values[: self._num_written].zero_()
            self._num_written = 0

    def _added(self, adapted: Tensor) -> Tensor:
        return self.projection.added(adapted, self.rule).to(self.values.dtype)


def install_hooks(projections: Sequence[nn.Module], values: Tensor, rule: Injection) -> None:
    """Let each of `projections`, a layer's `qkv_proj`, add the first rows of `values`.

    A projection returns a tuple whose first element is its output (N, width).
    """
    if rule == "none":
        return
    for projection in projections:
        projection.register_buffer("injection", values, persistent=False)
        if rule == "projected":
            projection.register_forward_pre_hook(_add_to_input)
        else:
            projection.register_forward_hook(_add_to_output)


def _add_to_input(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden = args[0]
    return (hidden + _rows(projection, hidden), *args[1:])


def _add_to_output(projection: nn.Module, args: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    return (output[0] + _rows(projection, output[0]), *output[1:])


def _rows(projection: nn.Module, like: Tensor) -> Tensor:
    values = projection.injection
    assert isinstance(values, Tensor)
    return values[: like.shape[0]]
