"""How good vectors by fold-in are, for users (or items) that training never saw.

    python -m benchmarks.fold_in workspace/yelp/dataset                 # users
    python -m benchmarks.fold_in workspace/yelp/dataset --side items

xrec's graph is trained twice in this process: on all interactions, and on those of the kept users
(items) only. The held-out users then get their vectors from their training items (the items from
their training users) and the tables of the second training. Users are scored by their validation
interactions; their training items are left out of the ranking. For items, the users are those who
have validation interactions with them, and the whole catalogue is ranked, with the held-out items'
vectors replaced.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graph_ours import Graph, Trainer, read_config
from xrec.config.graph import PretrainGraphConfig
from xrec.data import Dataset, read_dataset
from xrec.graph import SeenItems, ranking_metrics, users_with_items
from xrec.graph.fold_in import FoldIn
from xrec.storage import open_location

K = 20


@dataclass(frozen=True, eq=False)
class Interactions:
    """Edges (2, E) int64 of U users and I items, and which users or items are held out, bool."""

    train: Tensor
    validation: Tensor
    num_users: int
    num_items: int
    held_out: Tensor
    side: int
    """Which are held out: 0 for users, 1 for items."""

    @classmethod
    def of(cls, dataset: Dataset, side: int, share: float, seed: int) -> "Interactions":
        """Hold out `share` of the users (items) that have training interactions."""
        train, validation = (
            torch.from_numpy(dataset.interaction_edges(split)) for split in ("train", "validation")
        )
        rows = torch.unique(train[side])
        chosen = rows[
            torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[
                : round(share * len(rows))
            ]
        ]
        held_out = torch.zeros(
            (dataset.num_users, dataset.num_items)[side], dtype=torch.bool
        ).index_fill(0, chosen, True)
        return cls(train, validation, dataset.num_users, dataset.num_items, held_out, side)

    @property
    def kept(self) -> Tensor:
        """The training edges of the users (items) that are not held out."""
        return self.train[:, ~self.held_out[self.train[self.side]]]

    def recall(self, vectors: tuple[Tensor, Tensor], held_out: bool) -> float:
        """Return Recall@20 over the validation interactions of the held-out rows, or the others."""
        edges = self.validation[:, self.held_out[self.validation[self.side]] == held_out]
        seen, wanted = SeenItems(self.train, self.num_users), SeenItems(edges, self.num_users)
        return ranking_metrics(*vectors, seen, wanted, users_with_items(edges), [K])[f"recall@{K}"]


def train(
    config: PretrainGraphConfig, edges: Tensor, data: Interactions, num_epochs: int
) -> tuple[Tensor, Tensor]:
    """Train for `num_epochs`; return the vectors of users (U, D) and items (I, D)."""
    graph = Graph.of(edges, data.num_users, data.num_items)
    trainer = Trainer(graph, graph.start(config), config)
    for epoch in range(1, num_epochs + 1):
        start = time.monotonic()
        loss = trainer.epoch(epoch)
        _say(f"  epoch {epoch}: loss {loss:.4f} ({time.monotonic() - start:.1f} s)")
    vectors = trainer.vectors()
    return vectors.users, vectors.items


def fold(
    data: Interactions, trained: tuple[Tensor, Tensor], most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return `trained` with the held-out rows folded in.

    Each is folded in from at most `most` of its interactions, drawn at random, or from all if
    `most` is None.
    """
    edges = data.train if data.side == 0 else data.train.flip(0)
    edges = _at_most(edges[:, data.held_out[edges[0]]], most)
    rows, numbers = torch.unique(edges[0], return_inverse=True)
    fold_in = FoldIn.fit(*trained, data.kept)
    fold_side = fold_in.users if data.side == 0 else fold_in.items
    replaced = trained[data.side].index_copy(0, rows, fold_side(torch.stack([numbers, edges[1]])))
    return (replaced, trained[1]) if data.side == 0 else (trained[0], replaced)


def _at_most(edges: Tensor, most: int | None) -> Tensor:
    """Return at most `most` random edges of each row, or all edges if `most` is None."""
    if most is None:
        return edges
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(0))]
    ordered = shuffled[:, shuffled[0].argsort(stable=True)]
    starts = torch.searchsorted(ordered[0].contiguous(), ordered[0].contiguous())
    return ordered[:, torch.arange(ordered.shape[1]) - starts < most]


def agreement(
    data: Interactions,
    vectors: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    held_out: bool,
) -> float:
    """Return the mean cosine between vectors of two trainings.

    Before that, one training is rotated so that the vectors of the other side (items, if users are
    held out) agree best: the orthogonal Procrustes problem.
    """
    other = 1 - data.side
    common = torch.bincount(data.kept[other], minlength=len(vectors[other])) > 0
    left, _, right = torch.linalg.svd(vectors[other][common].T @ reference[other][common])
    rows = torch.unique(data.train[data.side])
    rows = rows[data.held_out[rows] == held_out]
    return float(
        F.cosine_similarity(
            vectors[data.side][rows] @ left @ right, reference[data.side][rows]
        ).mean()
    )


def table(rows: Iterable[tuple[str, float, float | None]], trained: float) -> str:
    """Return a line for each row.

    It has the name, Recall@20, its share of the trained rows' recall, and the cosine to the vectors
    of the training on all interactions.
    """
    lines = [f"{'vectors':52s} {'Recall@20':>9s} {'share':>6s} {'cosine':>7s}"]
    for name, recall, cosine in rows:
        shown = "" if cosine is None else f"{cosine:7.3f}"
        lines.append(f"{name:52s} {recall:9.4f} {recall / trained:6.2f} {shown}")
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _rows(
    data: Interactions,
    everything: tuple[Tensor, Tensor],
    kept: tuple[Tensor, Tensor],
    folded: tuple[Tensor, Tensor],
) -> Iterator[tuple[str, float, float | None]]:
    """Yield the rows of `table`: what the vectors are, Recall@20, and the cosine or None."""
    side = ("users", "items")[data.side]
    known, held_out = f"kept {side}", f"held-out {side}"
    yield (
        f"{known}, trained",
        data.recall(kept, held_out=False),
        agreement(data, kept, everything, held_out=False),
    )
    yield (
        f"{held_out}, folded in",
        data.recall(folded, held_out=True),
        agreement(data, folded, everything, held_out=True),
    )
    if side == "items":
        beside = "kept items, ranked beside the folded-in ones"
        yield beside, data.recall(folded, held_out=False), None
    for most in (1, 3, 10):
        recall = data.recall(fold(data, kept, most), held_out=True)
        yield f"{held_out}, folded in from at most {most}", recall, None
    yield f"{held_out}, trained on everything", data.recall(everything, held_out=True), None
    yield f"{known}, trained on everything", data.recall(everything, held_out=False), None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="URI of a dataset artifact")
    parser.add_argument(
        "--config", type=Path, help="project file; by default the defaults of pretrain-graph"
    )
    parser.add_argument(
        "--side", choices=["users", "items"], default="users", help="what is held out"
    )
    parser.add_argument("--held-out", type=float, default=0.1, help="share that is held out")
    parser.add_argument("--embedding-dim", type=int, default=64, help="D")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each training")
    parser.add_argument("--seed", type=int, default=0, help="seed that draws who is held out")
    return parser.parse_args()


def main() -> None:
    """Read the arguments, train twice, print the table."""
    arguments = _arguments()
    dataset = read_dataset(open_location(arguments.dataset))
    data = Interactions.of(
        dataset, ("users", "items").index(arguments.side), arguments.held_out, arguments.seed
    )
    config = read_config(
        arguments.config, embedding_dim=arguments.embedding_dim, workspace="unused"
    )
    _say("trained on all interactions:")
    everything = train(config, data.train, data, arguments.epochs)
    _say(
        f"trained on {data.kept.shape[1]} of {data.train.shape[1]} interactions, "
        f"{int(data.held_out.sum())} {arguments.side} held out:"
    )
    kept = train(config, data.kept, data, arguments.epochs)
    start = time.monotonic()
    folded = fold(data, kept)
    _say(f"fold-in: {time.monotonic() - start:.2f} s, fit included\n")
    rows = list(_rows(data, everything, kept, folded))
    _, trained, _ = rows[0]
    _say(table(rows, trained))


if __name__ == "__main__":
    main()
