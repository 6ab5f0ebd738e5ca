"""What a token adds in every layer, kept where vLLM's compiled and captured graphs look for it.

A step's rows are mixed: parts of prompts, single generated tokens. Row n of the buffer is what token n of the step adds, zero
for a text token: the graph always adds it, no test on the length of a query decides. The rules are those of xrec.llm.injection;
here the fused projection's own width, per tensor-parallel rank, is what `direct` adds to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xrec.config.adapter import Injection
from xrec.errors import ModelError
from xrec.llm.injection import fold_heads


@dataclass(frozen=True)
class Projection:
    """The part of each layer's fused qkv projection that tensor-parallel rank `rank` of `world_size` has: whole heads.

    With fewer key and value heads than ranks, ranks share a head, as in vLLM's QKVParallelLinear.
    """

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    rank: int = 0
    world_size: int = 1

    def width(self, rule: Injection) -> int:
        """Elements that a token adds: H at the attention's input, q + k + v of this rank behind the projection, or none."""
        num_heads = self.num_heads // self.world_size + 2 * self._num_local_key_value_heads
        return {"projected": self.hidden_size, "direct": num_heads * self.head_dim, "none": 0}[rule]

    def added(self, adapted: Tensor, rule: Injection) -> Tensor:
        """Adapted vectors a (N, H) to what they add (N, width); raises ModelError if `direct` does not fit the heads."""
        if rule == "projected":
            return adapted
        if rule == "none":
            return adapted[:, :0]
        if self.num_heads * self.head_dim != self.hidden_size:
            raise ModelError(
                f"direct: q is {self.num_heads * self.head_dim} wide, h {self.hidden_size}; it needs them alike: use model.injection=projected"
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
    """The rows of a step, (max_num_tokens, width), at one address for life; zero wherever there is nothing to add."""

    values: Tensor

    def __init__(self, max_num_tokens: int, width: int):
        super().__init__()
        self.register_buffer("values", torch.zeros(max_num_tokens, width), persistent=False)
        self._num_written = 0

    def write(self, rows: Tensor | None) -> None:
        """Take the rows (N, width) of the next step; None: it has no collaborative token, and nothing is done unless the last had."""
        num_rows = 0 if rows is None else len(rows)
        self.values[num_rows : self._num_written].zero_()
        if rows is not None:
            self.values[:num_rows] = rows
        self._num_written = num_rows
