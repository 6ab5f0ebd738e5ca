"""What graph pretraining reads of a dataset: its interactions by split, and how a split is ranked for again and again."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xrec.config.shared import Split
from xrec.data.dataset import Dataset
from xrec.graph import SeenItems, metric_names, ranking_metrics, users_with_items

K = 20
RECALL, SCORE = f"recall@{K}", f"ndcg@{K}"


def split_edges(dataset: Dataset, split: Split) -> Tensor:
    """The split's interactions (2, E) int64: user indices in row 0, item indices in row 1."""
    return torch.from_numpy(dataset.interaction_edges(split))


@dataclass(frozen=True)
class HeldOut:
    """A held-out split; `users` (N,) int64 are those with an item in it."""

    seen: SeenItems
    held_out: SeenItems
    users: Tensor

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> "HeldOut":
        held_out = split_edges(dataset, split)
        return cls(
            SeenItems(split_edges(dataset, "train"), dataset.num_users),
            SeenItems(held_out, dataset.num_users),
            users_with_items(held_out),
        )

    def part(self, number: int, num_parts: int) -> "HeldOut":
        """Part `number` of its users; parts differ by one user at most."""
        return replace(self, users=self.users.tensor_split(num_parts)[number])

    def score(self, users: Tensor, items: Tensor) -> dict[str, float]:
        """The metrics at 20 of vectors users (U, D), items (I, D), means over `self.users`; 0 without users."""
        if len(self.users) == 0:
            return dict.fromkeys(metric_names((K,)), 0.0)
        return ranking_metrics(users, items, self.seen, self.held_out, self.users, (K,))
