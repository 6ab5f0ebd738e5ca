"""Greedy writing, with a peer whose logits are told."""

import torch
from torch import Tensor

from xrec.lab.baselines.batch import collate_pairs
from xrec.lab.baselines.models.model import Pairs, Step, TextBatch, Writer
from xrec.lab.baselines.write import write_greedily

END, V = 2, 8


class Parrot(Writer):
    """User u says u, u + 1, ... and wants to stop once it has said `stop` of the item."""

    def forward(self, batch: TextBatch) -> Tensor:
        raise NotImplementedError

    def first(self, pairs: Pairs) -> Step:
        return self._say(pairs.users, pairs.items)

    def next(self, step: Step, token_ids: Tensor) -> Step:
        return self._say(token_ids + 1, step.state)

    def _say(self, wanted: Tensor, stops: Tensor) -> Step:
        wanted = torch.where(wanted > stops, END, wanted.clamp(max=V - 1))
        logits = torch.zeros(len(wanted), V)
        logits.scatter_(1, wanted[:, None], 5.0)
        logits[:, 1] = 9.0  # never written
        return Step(logits, stops)


def _written(users: list[int], items: list[int], max_tokens: int) -> list[list[int]]:
    pairs = collate_pairs(users, items, [()] * len(users))
    return write_greedily(Parrot(), pairs, end_ids=[END], never_written=[1], max_tokens=max_tokens)


def test_write_each_text_to_its_own_end() -> None:
    assert _written([3, 5, 4], [5, 5, 3], 10) == [[3, 4, 5, END], [5, END], [END]]


def test_write_a_text_without_an_end_is_as_long_as_allowed() -> None:
    assert _written([3, 4], [99, 5], 2) == [[3, 4], [4, 5, END]]


def test_write_does_not_depend_on_the_pairs_beside() -> None:
    users, items = [3, 5, 4, 6], [5, 5, 7, 7]
    together = _written(users, items, 10)
    alone = [_written([user], [item], 10)[0] for user, item in zip(users, items, strict=True)]
    assert together == alone
