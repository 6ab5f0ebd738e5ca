"""How the graph's nodes are divided among workers, and how workers exchange the nodes' rows.

A node is a user (0 to U - 1) or an item (U to N - 1). Each worker owns a block of rows of the
adjacency, the layer-0 embeddings, and the optimizer's state. It reads these rows and a halo: only
those rows of others that

    a layer     needs because they share an edge with its own; they are found once
    the loss    needs for its part of a batch, at each step
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NODES_PER_DRAW = _ROWS_PER_SUM = 65_536


@dataclass(frozen=True)
class RowBlocks:
    """The layout of all blocks: W stacked blocks of n rows each.

    Row r, in block r // n, is that of node `nodes[r]`; node v is in row `rows[v]`. `nodes` (W n,)
    int64 is -1 in the empty rows that pad the blocks to equal length; `rows` (N,) is int64.
    """

    nodes: Tensor
    rows: Tensor
    num_blocks: int

    @classmethod
    def deal(cls, degrees: Tensor, num_blocks: int) -> "RowBlocks":
        """Return blocks of ceil(N / W) rows with nearly equal sums of `degrees` (N,) int64.

        Nodes are dealt by descending degree to the blocks 1 to W, then W to 1, and so on. Within a
        block they are ascending, empty rows last. There must be a node for each block.
        """
        num_nodes = len(degrees)
        assert 1 <= num_blocks <= num_nodes
        padded = degrees.new_full((-(-num_nodes // num_blocks) * num_blocks,), num_nodes)
        padded[:num_nodes] = degrees.argsort(descending=True, stable=True)
        rounds = padded.view(-1, num_blocks)
        rounds[1::2] = rounds[1::2].flip(1)
        nodes = rounds.T.sort(dim=1).values.flatten()
        rows = nodes.argsort()[:num_nodes]
        return cls(nodes.masked_fill(nodes == num_nodes, -1), rows, num_blocks)

    @property
    def num_nodes(self) -> int:
        """N, the number of users and items."""
        return len(self.rows)

    @property
    def block_size(self) -> int:
        """n, the number of rows of each block, empty ones included."""
        return len(self.nodes) // self.num_blocks

    def node_ids(self, rank: int) -> Tensor:
        """Return the nodes of block `rank` in row order: (n,) int64, -1 in empty rows."""
        return self.nodes[rank * self.block_size : (rank + 1) * self.block_size]


class Halo:
    """Rows of other blocks that a worker reads; every worker chooses its own.

    Two collectives agree on who sends which rows. Then gathering them is one all-to-all, and its
    gradient another. A single block has no halo and needs no process group.
    """

    def __init__(self, blocks: RowBlocks, rank: int, rows: Tensor, device: torch.device) -> None:
        """Agree on those of `rows` (K,) int64 that other blocks own; `rows` may repeat. Collective.

        The process group must be able to send from `device`.
        """
        self._blocks, self._rank, self.rows = blocks, rank, rows[:0]
        if blocks.num_blocks == 1:
            return
        self.rows = rows[rows // blocks.block_size != rank].unique()  # (H,), ascending
        wanted = self.rows.to(device)
        counts = torch.bincount(wanted // blocks.block_size, minlength=blocks.num_blocks)
        asked = counts.clone()
        dist.all_to_all_single(asked, counts)
        self.received, self.sent = counts.tolist(), asked.tolist()
        first = rank * blocks.block_size
        lent = wanted.new_full((sum(self.sent),), first)
        dist.all_to_all_single(lent, wanted, self.sent, self.received)
        self.lent = lent - first

    def find(self, nodes: Tensor) -> Tensor:
        """Return the positions in `gather`'s rows of `nodes` (K,) int64, which must be there."""
        rows, size = self._blocks.rows[nodes], self._blocks.block_size
        if self._blocks.num_blocks == 1:
            return rows
        of_others = torch.searchsorted(self.rows, rows) + size
        return of_others.where(rows // size != self._rank, rows - self._rank * size)

    def gather(self, block: Tensor) -> Tensor:
        """Return this worker's `block` (n, D), then the halo's rows: (n + H, D). Collective."""
        if self._blocks.num_blocks == 1:
            return block
        rows: Tensor = _Gather.apply(block, self)  # type: ignore[no-untyped-call]
        return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Tensor, halo: Halo) -> Tensor:
        ctx.halo, ctx.size = halo, len(block)
        rows = block.new_empty(len(block) + len(halo.rows), *block.shape[1:])
        rows[: len(block)] = block
        of_others = rows[len(block) :]
        dist.all_to_all_single(of_others, block[halo.lent], halo.received, halo.sent)
        return rows

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Return the sum of all workers' gradients of this worker's rows."""
        own, of_others = grad_outputs[0].tensor_split([ctx.size])
        lent = own.new_empty(len(ctx.halo.lent), *own.shape[1:])
        halo = ctx.halo
        dist.all_to_all_single(lent, of_others.contiguous(), halo.sent, halo.received)
        return own.index_add(0, halo.lent, lent), None


@dataclass(frozen=True)
class Partition:
    """One worker's part of a layout: block `rank`. A single block needs no process group.

    `halo` is what products need (`xrec.graph.adjacency.with_halo`); a single block needs none.
    """

    blocks: RowBlocks
    rank: int = 0
    halo: Halo | None = None

    @classmethod
    def whole(cls, num_nodes: int) -> "Partition":
        """Return the partition of a worker that owns all nodes."""
        nodes = torch.arange(num_nodes)
        return cls(RowBlocks(nodes, nodes, 1))

    @property
    def node_ids(self) -> Tensor:
        """The nodes of this worker's rows: (n,) int64, ascending, then -1 in the empty rows."""
        return self.blocks.node_ids(self.rank)

    @property
    def column_nodes(self) -> Tensor:
        """The nodes of a matrix's columns (C,) int64, -1 if empty.

        These are the rows that `halo` gathers, or without one those of all blocks.
        """
        if self.halo is None:
            return self.blocks.nodes
        return torch.cat([self.node_ids, self.blocks.nodes[self.halo.rows]])

    def find_columns(self, nodes: Tensor) -> Tensor:
        """Return the columns of `nodes` (K,) int64 in a matrix (`column_nodes`)."""
        return self.blocks.rows[nodes] if self.halo is None else self.halo.find(nodes)

    def num_own(self, below: int) -> int:
        """Return the number of this worker's nodes below `below`; their rows come first."""
        return int(((self.node_ids >= 0) & (self.node_ids < below)).sum())

    def find(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return which indices of `nodes` (K,) are this worker's, and their rows in its block."""
        rows = self.blocks.rows[nodes] - self.rank * self.blocks.block_size
        found = ((rows >= 0) & (rows < self.blocks.block_size)).nonzero().flatten()
        return found, rows[found]

    def normal_rows(self, num_columns: int, seed: int) -> Tensor:
        """Return this worker's rows of a table (N, num_columns) drawn from N(0, 1).

        The table is the same for any number of workers; empty rows are zero.
        """
        generator = torch.Generator().manual_seed(seed)
        own = self.node_ids[self.node_ids >= 0]
        rows = torch.zeros(self.blocks.block_size, num_columns)
        for first in range(0, self.blocks.num_nodes, NODES_PER_DRAW):
            drawn = torch.randn(NODES_PER_DRAW, num_columns, generator=generator)
            low, high = torch.searchsorted(
                own, torch.tensor([first, first + NODES_PER_DRAW])
            ).tolist()
            rows[low:high] = drawn[own[low:high] - first]
        return rows

    # The following functions are collective, and have no gradient.

    def all_gather(self, block: Tensor) -> Tensor:
        """Return all workers' `block` (m, D), stacked: (W m, D)."""
        if self.blocks.num_blocks == 1:
            return block
        gathered = block.new_empty(self.blocks.num_blocks * len(block), *block.shape[1:])
        dist.all_gather_into_tensor(gathered, block.contiguous())
        return gathered

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the sum of all workers' `value`, of any shape."""
        if self.blocks.num_blocks == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, value: Tensor) -> Tensor:
        """Return the `value` of the first block's owner on every worker."""
        if self.blocks.num_blocks == 1:
            return value
        received = value.contiguous().clone()
        dist.broadcast(received, group_src=0)
        return received

    def product(self, matrix: Tensor, block: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return the sparse `matrix` (m, n + H) times all workers' `block` (n, D), + `plus` (m, D).

        Its columns are this worker's rows, then those of `halo`.
        """
        rows = block if self.halo is None else self.halo.gather(block)
        return matrix @ rows if plus is None else torch.addmm(plus, matrix, rows)

    def inner(self, left: Tensor, right: Tensor) -> Tensor:
        """Return left^T right (k, l) float64 over the rows (m, k) and (m, l) of all workers."""
        total = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
        for a, b in zip(left.split(_ROWS_PER_SUM), right.split(_ROWS_PER_SUM), strict=True):
            total.addmm_(a.double().T, b.double())
        return self.all_reduce(total)

    def signs(self, rows: Tensor) -> Tensor:
        """Return signs (k,) that make the entry of largest magnitude in each column positive.

        The columns are those of all workers' `rows` (m, k).
        """
        largest = _largest(rows if len(rows) else rows.new_zeros(1, rows.shape[1]))
        return torch.where(_largest(self.all_gather(largest))[0] < 0, -1.0, 1.0)

    def rows(self, block: Tensor, nodes: Tensor) -> Tensor:
        """Return the rows (K, D) of `nodes` (K,) int64 from all workers' `block` (n, D).

        The nodes are the same on every worker.
        """
        if self.blocks.num_blocks == 1:
            return block[nodes.to(block.device)]
        found, own = (each.to(block.device) for each in self.find(nodes))
        rows = block.new_zeros(len(nodes), *block.shape[1:])
        rows[found] = block[own]
        dist.all_reduce(rows)
        return rows


def _largest(rows: Tensor) -> Tensor:
    return rows.gather(0, rows.abs().argmax(dim=0, keepdim=True))
