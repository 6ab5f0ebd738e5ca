"""What training keeps of the frozen model's work: keys and values of the prompts' beginnings (xrec.llm.prefix).

What all prompts share is computed once. What a prompt adds before its first collaborative token is computed when it is first
needed and kept as long as the budget lasts; a row that finds no room is computed again each time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from xrec.llm.examples import Example
from xrec.llm.prefix import (
    KeyValues,
    batch_key_values,
    can_split,
    common_prefix,
    compute_key_values,
    num_prefix_tokens,
)


@dataclass
class WorkCounts:
    """What went through the model: rows, those of them whose beginning was kept, positions, and padding among these."""

    rows: int = 0
    kept_rows: int = 0
    positions: int = 0
    padding: int = 0

    def add_pass(self, lengths: Sequence[int]) -> None:
        """Count one forward pass over rows of these lengths."""
        self.positions += len(lengths) * max(lengths)
        self.padding += len(lengths) * max(lengths) - sum(lengths)


class PrefixCache:
    """Splits examples at their first collaborative token, and knows keys and values of what comes before.

    `agree` tells whether any worker has a beginning to compute, if this one has (True) or has not: under ZeRO stage 3 all
    workers must make the same forward passes. With `split` False nothing is split: all goes through the model each time.
    `counts` goes on until someone sets it anew.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        *,
        budget_bytes: int,
        agree: Callable[[bool], bool] = lambda needed: needed,
        split: bool = True,
    ):
        self._num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
        lengths = [
            num_prefix_tokens(example.prompt_ids, self._num_text_tokens) for example in examples
        ]
        longest_rest = max(
            len(example) - length for example, length in zip(examples, lengths, strict=True)
        )
        self._can_split = can_split(model, max(lengths) + longest_rest)
        self._splits = split and self._can_split
        beginnings = [
            example.prompt_ids[:length] for example, length in zip(examples, lengths, strict=True)
        ]
        self._shared_ids = common_prefix(beginnings) if self._splits else []
        self._shared: Tensor | None = None
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._budget_bytes = budget_bytes
        self._agree = agree
        self.num_bytes = 0
        """Size of the keys and values that are kept, without the shared ones."""
        self.counts = WorkCounts()

    def split(
        self, model: PreTrainedModel, examples: Sequence[Example]
    ) -> tuple[KeyValues | None, list[Example]]:
        """Keys and values of the examples' beginnings, and the examples from their first collaborative token on.

        The examples are among those that the cache was made for: they begin with what these share.
        """
        num_shared = len(self._shared_ids)
        assert all(
            list(example.prompt_ids[:num_shared]) == self._shared_ids for example in examples
        )
        if self._shared is None and self._shared_ids:
            (self._shared,) = compute_key_values(model, [self._shared_ids])
        lengths = [self._num_prefix_tokens(example) for example in examples]
        own_ids = [
            tuple(example.prompt_ids[num_shared:length])
            for example, length in zip(examples, lengths, strict=True)
        ]
        self.counts.rows += len(examples)
        self.counts.kept_rows += sum(ids in self._kept for ids in own_ids)
        computed = self._compute(
            model, [ids for ids in dict.fromkeys(own_ids) if ids and ids not in self._kept]
        )
        rest = [
            Example(example.prompt_ids[length:], example.label_ids)
            for example, length in zip(examples, lengths, strict=True)
        ]
        self.counts.add_pass([len(example) for example in rest])
        return batch_key_values(
            self._shared, [computed.get(ids, self._kept.get(ids)) for ids in own_ids]
        ), rest

    def num_rest_tokens(self, example: Example) -> int:
        """Positions from the first collaborative token on: what an example costs in every epoch.

        Where the model can be split and `split` is False, the same number: batches are made by it, and are to be the same.
        """
        return len(example) - (
            num_prefix_tokens(example.prompt_ids, self._num_text_tokens) if self._can_split else 0
        )

    def _num_prefix_tokens(self, example: Example) -> int:
        return len(example) - self.num_rest_tokens(example) if self._splits else 0

    def _compute(
        self, model: PreTrainedModel, missing: list[tuple[int, ...]]
    ) -> dict[tuple[int, ...], Tensor]:
        if not self._agree(bool(missing)):
            return {}
        rows = missing or [(0,)]  # another worker has some: go along
        self.counts.add_pass([len(row) for row in rows])
        past = batch_key_values(self._shared, [None])
        computed = dict(zip(rows, compute_key_values(model, rows, past), strict=True))
        for ids in missing:
            self._keep(ids, computed[ids])
        return computed

    def _keep(self, ids: tuple[int, ...], row: Tensor) -> None:
        num_bytes = row.numel() * row.element_size()
        if self.num_bytes + num_bytes <= self._budget_bytes:
            self._kept[ids] = row
            self.num_bytes += num_bytes
