"""Keys and values of the prompts' beginnings, kept during training (see xrec.llm.prefix).

The beginning of a prompt is what comes before its first collaborative token. The model is frozen,
so the keys and values of a beginning stay the same in all epochs. The part that all prompts share
is computed once. The rest of a beginning is computed when it is first needed and is kept if the
budget has room; without room it is computed again each time.
"""

from collections.abc import Callable, Sequence

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


class PrefixCache:
    """Splits examples at their first collaborative token; keeps keys and values of the beginnings.

    `agree` takes whether this worker has a beginning to compute, and returns whether any worker
    has: under ZeRO stage 3 all workers must make the same forward passes. If `split` is False,
    whole examples go through the model each time.
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
        lengths = [num_prefix_tokens(row.prompt_ids, self._num_text_tokens) for row in examples]
        rests = [len(row) - length for row, length in zip(examples, lengths, strict=True)]
        # Each part of a batch is padded to its longest row.
        self._can_split = can_split(model, max(lengths) + max(rests))
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
        """Size of the keys and values that are kept, without those that all prompts share."""

    def split(
        self, model: PreTrainedModel, examples: Sequence[Example]
    ) -> tuple[KeyValues | None, list[Example]]:
        """Return the keys and values of the examples' beginnings, and the rest of the examples.

        The rest goes from the first collaborative token on. The examples must be among those that
        the cache was made for, because these share the same first tokens.
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
        computed = self._compute(
            model, [ids for ids in dict.fromkeys(own_ids) if ids and ids not in self._kept]
        )
        rest = [
            Example(example.prompt_ids[length:], example.label_ids)
            for example, length in zip(examples, lengths, strict=True)
        ]
        return batch_key_values(
            self._shared, [computed.get(ids, self._kept.get(ids)) for ids in own_ids]
        ), rest

    def num_rest_tokens(self, example: Example) -> int:
        """Return the number of positions from the first collaborative token on.

        This is what an example costs in every epoch. It does not depend on `split`: batches are
        made by this number and must be the same with and without splitting.
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
        # If only other workers have beginnings to compute, this one makes a pass over any token.
        rows = missing or [(0,)]
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
