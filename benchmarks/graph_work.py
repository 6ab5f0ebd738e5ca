"""What a worker computes, moves and holds in one training step, counted from its own rows.

There are N nodes, D dimensions, L layers and W workers. Worker w has n_w rows of the adjacency (N
for `replicated`) with nnz_w entries. A step has B interactions, in micro-batches of M with
C = num_negatives + M candidates each.

    propagation FLOP    2 L products (forward, backward) of 2 nnz_w D
    loss FLOP           3 (forward, two gradients) of 2 (B / W) C D
    optimizer FLOP      about 12 an element of this worker's moments
    propagation bytes   2 L products as `graph_bandwidth.propagation_bytes` counts them
    optimizer bytes     28 an element: parameter, gradient and two moments are read, parameter and
                        two moments are written
    sent bytes          received by this worker from the others, with ring algorithms: all-gather
                        and reduce-scatter of a table (N, D) move (W - 1) / W of it each
    held bytes          rows of the adjacency, parameters, gradients, moments, and the tables (N, D)
                        that a layer needs whole
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.graph_bandwidth import propagation_bytes
from xrec.graph.adjacency import node_degrees
from xrec.graph.partition import RowBlocks

Record = dict[str, float | int | str]
WORKERS = (1, 2, 4, 8)
_FLOAT = 4
_ADAM_FLOP, _ADAM_BYTES = 12, 28


@dataclass(frozen=True)
class Step:
    """One training step; `candidates` are those of a micro-batch."""

    embedding_dim: int
    num_layers: int
    batch_size: int
    candidates: int


def count_work(edges: Tensor, num_users: int, num_items: int, step: Step) -> list[Record]:
    """Return a row for each mode and number of workers.

    It has the counts of the busiest worker, and their ratio to the counts of one worker alone.
    """
    degrees = node_degrees(edges, num_users, num_items)
    rows = [
        *(_replicated(degrees, step, num_workers) for num_workers in WORKERS),
        *(_partitioned(degrees, step, num_workers) for num_workers in WORKERS),
    ]
    return [row | _ratios(row, next(r for r in rows if r["mode"] == row["mode"])) for row in rows]


def _replicated(degrees: Tensor, step: Step, num_workers: int) -> Record:
    """Count for `replicated`: every worker propagates the whole graph.

    Batches are split, and by ZeRO stage 1 the moments.
    """
    num_nodes, entries = len(degrees), int(degrees.sum())
    table = num_nodes * step.embedding_dim * _FLOAT
    # Stage 1: a reduce-scatter of the gradients, an all-gather of the updated parameters.
    sent = 2 * table * (num_workers - 1) // num_workers
    held = _adjacency_bytes(entries, num_nodes) + 2 * table + 2 * table // num_workers + 2 * table
    return _counts(
        "replicated", num_workers, entries, num_nodes, num_nodes / num_workers, sent, held, step
    )


def _partitioned(degrees: Tensor, step: Step, num_workers: int) -> Record:
    """Count for `partitioned`: a worker has a block of rows, here the block with most entries.

    The block holds rows of the adjacency, the parameters and the moments.
    """
    blocks = RowBlocks.deal(degrees, num_workers)
    padded = torch.cat([degrees, degrees.new_zeros(1)])
    entries = max(
        int(padded[blocks.node_ids(rank)].sum()) for rank in range(num_workers)
    )  # -1: the zero at the end
    rows = blocks.block_size
    block, table = rows * step.embedding_dim * _FLOAT, len(degrees) * step.embedding_dim * _FLOAT
    # 2 L all-gathers of layers, one of the read-out, one reduce-scatter of its gradient.
    sent = (2 * step.num_layers + 2) * block * (num_workers - 1)
    held = _adjacency_bytes(entries, rows) + 4 * block + 2 * table
    return _counts("partitioned", num_workers, entries, rows, rows, sent, held, step)


def _counts(
    mode: str,
    num_workers: int,
    entries: int,
    rows: int,
    optimizer_rows: float,
    sent: int,
    held: int,
    step: Step,
) -> Record:
    dim, products = step.embedding_dim, 2 * step.num_layers
    propagation = products * 2 * entries * dim
    loss = 3 * 2 * step.batch_size // num_workers * step.candidates * dim
    optimizer = optimizer_rows * dim
    flop = propagation + loss + _ADAM_FLOP * optimizer
    moved = products * propagation_bytes(entries, rows, dim) + _ADAM_BYTES * optimizer
    return {
        "mode": mode,
        "W": num_workers,
        "nonzeros": entries,
        "rows": rows,
        "propagation MFLOP": round(propagation / 1e6, 3),
        "loss MFLOP": round(loss / 1e6, 3),
        "MFLOP": round(flop / 1e6, 3),
        "MB moved": round(moved / 1e6, 3),
        "MB received": round(sent / 1e6, 3),
        "MB held": round(held / 1e6, 3),
    }


def _ratios(row: Record, one: Record) -> Record:
    return {
        f"{name} / W=1": round(float(row[name]) / float(one[name]), 3)
        for name in ("propagation MFLOP", "MFLOP", "MB moved", "MB held")
    }


def _adjacency_bytes(entries: int, rows: int) -> int:
    return entries * 8 + (rows + 1) * 4
