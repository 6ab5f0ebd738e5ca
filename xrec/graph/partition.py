"""How the nodes of the graph are dealt to workers, and how workers exchange the nodes' rows.

A node is a user (0 to U - 1) or an item (U to N - 1). Each worker owns a block of rows of the
adjacency, of the layer-0 embeddings and of the optimizer's state. Replicated training uses one
block that holds all rows.

    block (n, D) of each worker ── all-gather ──> all blocks (W n, D) ── by node ──> table (N, D)
    its gradient                <─ reduce-scatter ─       gradients of all workers, added up
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_NODES_PER_DRAW = 65_536


@dataclass(frozen=True)
class RowBlocks:
    """The layout of all blocks: W blocks of n rows each, one below the other.

    Row r, in block r // n, holds the node `nodes[r]`; the node v stands in row `rows[v]`. nodes
    (W n,) int64 is -1 in the empty rows that make the blocks equally long; rows (N,) int64.
    """

    nodes: Tensor
    rows: Tensor
    num_blocks: int

    @classmethod
    def deal(cls, degrees: Tensor, num_blocks: int) -> "RowBlocks":
        """Return blocks of ceil(N / W) rows with nearly equal sums of `degrees` (N,) int64.

        Nodes are dealt by descending degree, to the blocks 1 to W, then W to 1, and so on. Within a
        block they stand in their own order, empty rows last. The result depends on the arguments
        only. There must be a node for each block.
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


@dataclass(frozen=True)
class Partition:
    """One worker's place in a layout: it owns block `rank`.

    With one block nothing is sent, and no process group is needed.
    """

    blocks: RowBlocks
    rank: int = 0

    @classmethod
    def whole(cls, num_nodes: int) -> "Partition":
        """Return the place of a worker that owns all nodes."""
        nodes = torch.arange(num_nodes)
        return cls(RowBlocks(nodes, nodes, 1))

    @property
    def node_ids(self) -> Tensor:
        """The nodes of this worker's rows: (n,) int64, ascending, then -1 in the empty rows."""
        return self.blocks.node_ids(self.rank)

    def all_gather(self, block: Tensor) -> Tensor:
        """Return all workers' `block` (n, D), one below the other: (W n, D), without a gradient."""
        if self.blocks.num_blocks == 1:
            return block
        gathered = block.new_empty(len(self.blocks.nodes), *block.shape[1:])
        dist.all_gather_into_tensor(gathered, block.contiguous())
        return gathered

    def reduce_scatter(self, rows: Tensor) -> Tensor:
        """Return this worker's block (n, D) of the sum of all workers' `rows` (W n, D).

        The result has no gradient.
        """
        if self.blocks.num_blocks == 1:
            return rows
        block = rows.new_empty(self.blocks.block_size, *rows.shape[1:])
        dist.reduce_scatter_tensor(block, rows.contiguous())
        return block

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the sum of all workers' `value`, of any shape, without a gradient."""
        if self.blocks.num_blocks == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, value: Tensor) -> Tensor:
        """Return, on every worker, the `value` of the first block's owner, without a gradient."""
        if self.blocks.num_blocks == 1:
            return value
        received = value.contiguous().clone()
        dist.broadcast(received, group_src=0)
        return received

    def table(self, block: Tensor) -> Tensor:
        """Return, on every worker, all workers' `block` (n, D) in the order of the nodes: (N, D).

        With one block it is a view of `block`. The gradient is a reduce-scatter: all workers'
        gradients of the table are added, and each worker keeps its rows. So every worker must call
        backward.
        """
        table: Tensor = _Table.apply(self, block)  # type: ignore[no-untyped-call]
        return table

    def own_rows(self, table: Tensor) -> Tensor:
        """Return this worker's rows (n, D) of `table` (N, D), zero in empty rows."""
        if self.blocks.num_blocks == 1:
            return table
        return _rows_of(table, self.node_ids)

    def normal_rows(self, num_columns: int, seed: int) -> Tensor:
        """Return this worker's rows of a table (N, num_columns) drawn from N(0, 1).

        The table is the same for any number of workers. Empty rows are zero.
        """
        generator = torch.Generator().manual_seed(seed)
        own = self.node_ids[self.node_ids >= 0]
        rows = torch.zeros(self.blocks.block_size, num_columns)
        for first in range(0, self.blocks.num_nodes, _NODES_PER_DRAW):
            drawn = torch.randn(_NODES_PER_DRAW, num_columns, generator=generator)
            low, high = torch.searchsorted(
                own, torch.tensor([first, first + _NODES_PER_DRAW])
            ).tolist()
            rows[low:high] = drawn[own[low:high] - first]
        return rows


class _Table(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partition: Partition, block: Tensor) -> Tensor:
        ctx.partition = partition
        if partition.blocks.num_blocks == 1:
            return block.view_as(block)
        return partition.all_gather(block)[partition.blocks.rows.to(block.device)]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        partition, gradient = ctx.partition, grad_outputs[0]
        if partition.blocks.num_blocks == 1:
            return None, gradient
        return None, partition.reduce_scatter(_rows_of(gradient, partition.blocks.nodes))


def _rows_of(table: Tensor, nodes: Tensor) -> Tensor:
    nodes = nodes.to(table.device)
    return table[nodes.clamp(min=0)].masked_fill_((nodes < 0).unsqueeze(1), 0)
