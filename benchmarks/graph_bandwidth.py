"""How fast a propagation layer moves data, compared with how fast this machine can.

The count is for Y = A X with A (n, N) in CSR with nnz entries and 32-bit indices, and X (N, D)
float32. It is the traffic that the algorithm asks for: an entry is 4 bytes of index, 4 of value and
a row of X (4 D bytes); a row of Y is 4 D bytes written and 4 bytes read for its start. A cache
saves a part of it, since some rows of X are read often, so the figure may exceed the memory's rate.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from xrec.graph import normalized_adjacency

Record = dict[str, float | int | str]
_STREAM_ELEMENTS = 1 << 26  # 256 MB of float32, more than a cache holds


def propagation_bytes(num_entries: int, num_rows: int, embedding_dim: int) -> int:
    """Return the bytes of one product, as the module's docstring counts them."""
    return num_entries * (8 + 4 * embedding_dim) + num_rows * (4 + 4 * embedding_dim)


def measure(
    edges: Tensor, num_users: int, num_items: int, embedding_dim: int, repeats: int
) -> list[Record]:
    """Return a row for each measurement.

    They are the product of this graph, gathers of the same rows without the sums, and STREAM's copy
    and triad.
    """
    adjacency = normalized_adjacency(edges, num_users, num_items)
    num_nodes, num_entries = adjacency.shape[0], adjacency.values().numel()
    x = torch.randn(num_nodes, embedding_dim)
    columns = adjacency.col_indices().long()
    scattered = torch.randint(0, num_nodes, (num_entries,))
    rows = torch.empty(num_entries, embedding_dim)
    product = propagation_bytes(num_entries, num_nodes, embedding_dim)
    gather = num_entries * (8 + 8 * embedding_dim)  # an index of 8 bytes, a row read, a row written
    return [
        _row("propagation, one layer", lambda: adjacency @ x, product, repeats, num_entries),
        _row(
            "gather of the same rows",
            lambda: torch.index_select(x, 0, columns, out=rows),
            gather,
            repeats,
            num_entries,
        ),
        _row(
            "gather of random rows",
            lambda: torch.index_select(x, 0, scattered, out=rows),
            gather,
            repeats,
            num_entries,
        ),
        *_stream(repeats),
    ]


def _stream(repeats: int) -> list[Record]:
    """Measure McCalpin's STREAM: copy is a = b, and triad is a = b + s c.

    Copy counts a read and a write, triad two reads and a write; write-allocate is not counted.
    """
    a, b, c = (torch.ones(_STREAM_ELEMENTS) for _ in range(3))
    return [
        _row("STREAM copy", lambda: a.copy_(b), 8 * _STREAM_ELEMENTS, repeats, 0),
        _row(
            "STREAM triad",
            lambda: torch.add(b, c, alpha=3.0, out=a),
            12 * _STREAM_ELEMENTS,
            repeats,
            0,
        ),
    ]


def _row(
    name: str, work: Callable[[], object], num_bytes: int, repeats: int, num_entries: int
) -> Record:
    seconds = _best_seconds(work, repeats)
    row: Record = {
        "what": name,
        "seconds": round(seconds, 5),
        "GB": round(num_bytes / 1e9, 3),
        "GB a second": round(num_bytes / seconds / 1e9, 2),
    }
    return row | {
        "million nonzeros a second": round(num_entries / seconds / 1e6, 1) if num_entries else ""
    }


def _best_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
