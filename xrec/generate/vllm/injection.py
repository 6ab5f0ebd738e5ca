"""The vectors that tokens add in every layer, in a buffer that vLLM's graphs read.

One step of vLLM mixes parts of prompts with single generated tokens. Row n of the buffer is the
vector that token n of the step adds; it is zero for a text token. The graph adds the rows in every
step, so it need not decide which tokens are collaborative. The rules are those in
xrec.llm.injection. Both act at the fused qkv projection: `projected` adds to its input and `direct`
to its output, of which each tensor-parallel rank has a part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.injection import fold_heads


class InjectionBuffer(nn.Module):
    """The vectors that the tokens of one step add under `rule`: `values` (max_num_tokens, width).

    projections: the QKVParallelLinear of each layer, which gets a hook that adds the first rows.

    The buffer keeps its address, because captured graphs read it there. Raises ModelError for
    `direct` if the query is not as wide as the hidden state.
    """

    values: Tensor

    def __init__(self, projections: Sequence[Any], rule: Injection, max_num_tokens: int):
        super().__init__()
        self._rule, self._like = rule, [projections[0]]  # a list, so it is no child module
        width = added(projections[0], torch.zeros(1, projections[0].hidden_size), rule).shape[1]
        self.register_buffer("values", torch.zeros(max_num_tokens, width), persistent=False)
        self._written: Tensor | None = None
        for projection in projections if rule != "none" else ():
            projection.register_buffer("injection", self.values, persistent=False)
            if rule == "projected":
                projection.register_forward_pre_hook(_add_to_input)
            else:  # the output is the first item of a tuple
                projection.register_forward_hook(_add_to_output)

    def write(self, rows: Tensor, vectors: Tensor) -> None:
        """Set the `vectors` (N, H) that the tokens `rows` (N,), int64, of a step add; clear others.

        This does not wait for the device.
        """
        self.clear()
        values = added(self._like[0], vectors, self._rule).to(self.values.dtype)
        self.values.index_copy_(0, rows, values)
        self._written = rows

    def clear(self) -> None:
        """Set the rows that were written to zero."""
        if self._written is not None:
            self.values.index_fill_(0, self._written, 0)
            self._written = None


def added(projection: Any, vectors: Tensor, rule: Injection) -> Tensor:
    """Return what vectors (N, H) add under `rule` at `projection`, one rank's QKVParallelLinear.

    `projected` adds H elements to its input, `direct` adds to this rank's q, k and v, and `none`
    adds nothing. If there are fewer key heads than ranks, several ranks have the same key head.
    Raises ModelError for `direct` if the query is not as wide as the hidden state.
    """
    if rule != "direct":
        return vectors if rule == "projected" else vectors[:, :0]
    head_size, num_key_value_heads = projection.head_size, projection.total_num_kv_heads
    width = projection.total_num_heads * head_size
    if width != projection.hidden_size:
        raise ModelError(
            f"model.injection=direct: the query is {width} wide, the hidden state "
            f"{projection.hidden_size}; expected equal widths: set model.injection=projected",
            code="query_width",
            key="model.injection",
            saw="direct",
        )
    query = vectors.chunk(projection.tp_size, dim=1)[projection.tp_rank]
    folded = fold_heads(vectors, num_key_value_heads, head_size)
    num_parts = num_key_value_heads // projection.num_kv_heads
    key = folded.chunk(num_parts, dim=1)[projection.tp_rank // projection.num_kv_head_replicas]
    return torch.cat([query, key, key], dim=1)


def _add_to_input(projection: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden = args[0]
    return (hidden + _rows(projection, hidden), *args[1:])


def _add_to_output(projection: nn.Module, args: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    return (output[0] + _rows(projection, output[0]), *output[1:])


def _rows(projection: nn.Module, like: Tensor) -> Tensor:
    values = projection.injection
    assert isinstance(values, Tensor)
    return values[: like.shape[0]]
