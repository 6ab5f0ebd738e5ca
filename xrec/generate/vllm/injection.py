"""The vectors that tokens add in every layer, in a buffer that vLLM's compiled graphs read.

One step of vLLM mixes parts of prompts and single generated tokens. Row n of the buffer is what
token n of the step adds; it is zero for a text token. The graph adds the rows in every step, so it
need not decide which tokens are collaborative. The rules are those of xrec.llm.injection. `direct`
adds to the output of the fused qkv projection, of which each tensor-parallel rank has a part.
"""

from dataclasses import dataclass

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

        `projected` adds H elements to the attention's input, `direct` adds to this rank's q, k and
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
    """The rows of one step, (max_num_tokens, width).

    The buffer keeps its address, because captured graphs read it there. It is zero where nothing
    is to be added.
    """

    values: Tensor

    def __init__(self, max_num_tokens: int, width: int):
        super().__init__()
        self.register_buffer("values", torch.zeros(max_num_tokens, width), persistent=False)
        self._num_written = 0

    def write(self, rows: Tensor | None) -> None:
        """Set the rows (N, width) of the next step, or None if it has no collaborative token.

        Rows that the step before has left are set to zero.
        """
        num_rows = 0 if rows is None else len(rows)
        self.values[num_rows : self._num_written].zero_()
        if rows is not None:
            self.values[:num_rows] = rows
        self._num_written = num_rows
