"""The vectors that tokens add in every layer, in a buffer that vLLM's graphs read.

One step of vLLM mixes parts of prompts and single generated tokens. Row n of the buffer is what
token n of the step adds; it is zero for a text token. The graph adds the rows in every step, so it
need not decide which tokens are collaborative. The rules are those of xrec.llm.injection. Both act
at the fused qkv projection: `projected` adds to its input and `direct` to its output, of which each
tensor-parallel rank has a part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.injection import fold_heads


class InjectionBuffer(nn.Module):
    """What the tokens of one step add under `rule`, in `values` (max_num_tokens, width).

    Each of `projections`, a layer's QKVParallelLinear, adds the first rows from now on. The buffer
    keeps its address, because captured graphs read it there. It is zero where nothing is to be
    added.

    Raises ModelError for `direct` if the query is not as wide as the hidden state.
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
            else:  # its output is the first of a tuple
                projection.register_forward_hook(_add_to_output)

    def write(self, rows: Tensor, vectors: Tensor) -> None:
        """Let the tokens `rows` (N,), int64, of a step add what `vectors` (N, H) say, others none.

        Nothing is read from the device.
        """
        self.clear()
        of_rows = added(self._like[0], vectors, self._rule).to(self.values.dtype)
        self.values.index_copy_(0, rows, of_rows)
        self._written = rows

    def clear(self) -> None:
        """Let no token add anything. If that is so already, nothing is computed."""
        if self._written is not None:
            self.values.index_fill_(0, self._written, 0)
            self._written = None


def added(projection: Any, vectors: Tensor, rule: Injection) -> Tensor:
    """What vectors (N, H) add under `rule` at `projection`, the QKVParallelLinear of one rank.

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
            f"direct: q is {width} wide, h {projection.hidden_size}; "
            "direct needs the same width: use model.injection=projected",
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
