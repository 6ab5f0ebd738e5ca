"""Item-to-item neighbors from co-occurrence, with how many people chose both items.

With the training interactions R (U, I) and the degrees d of users and items, the weight of history
item j for item i is the linear filter of GF-CF (arXiv 2108.07567),

    w_ji = sum over the users u of both items of 1 / d_u, divided by d_j^a d_i^b.

Each item i keeps its `MOST_NEIGHBORS` heaviest j. One sparse product gives weights and counts of a
block of items: its left factor has 1 / d_u in the real part and 1 in the imaginary part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

MOST_NEIGHBORS = 200
MOST_ITEMS = 1000
"""A user with more items counts with so many in the search, since a user's cost is quadratic."""
PRODUCTS_PER_BLOCK = 3 * 10**7

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Neighbors:
    """The N kept pairs of items, by history item j and then by item i.

    starts: (I + 1,) int64; the pairs of j are `starts[j]` to `starts[j + 1]`.
    targets: (N,) int32, the items i. weights: (N,) float32, w_ji.
    num_people: (N,) int32, how many users have both. It never leaves the node that builds it.
    """

    starts: Ints
    targets: Ints
    weights: Floats
    num_people: Ints


def pair_matrix(starts: Ints, targets: Ints, values: npt.NDArray[Any]) -> Any:
    """Return the values (N,) of pairs as a matrix (I, I), from history items to items.

    `starts` and `targets` are those of `Neighbors`. The matrix shares the memory of `targets` and
    `values`; SciPy would copy `targets` if `starts` had another type.
    """
    if starts[-1] <= np.iinfo(targets.dtype).max:
        starts = starts.astype(targets.dtype)
    return sp.csr_array((values, targets, starts), shape=(len(starts) - 1,) * 2)


def build(
    edges: Ints,
    num_users: int,
    num_items: int,
    *,
    powers: tuple[float, float] = (0.5, 0.5),
    most_neighbors: int = MOST_NEIGHBORS,
    most_items: int = MOST_ITEMS,
) -> Neighbors:
    """Return the neighbors of all items.

    edges: the distinct training interactions, (2, E): users, then items. powers: a and b.
    """
    shape = num_users, num_items
    seen = sp.csr_array((np.ones(edges.shape[1], np.float32), (edges[0], edges[1])), shape=shape)
    of_users, of_items = np.diff(seen.indptr), np.bincount(edges[1], minlength=num_items)
    is_heavy = of_users > most_items
    scale_j, scale_i = (np.maximum(of_items, 1.0) ** -power for power in powers)
    searched = _thinned(seen, is_heavy, most_items)
    factor = np.where(is_heavy, 0j, 1j) + 1 / np.maximum(of_users, 1)
    right = sp.csr_array(
        (np.repeat(factor.astype(np.complex64), np.diff(searched.indptr)), *_pattern(searched)),
        shape=shape,
    )
    left = sp.csr_array(searched.T)
    kept = [
        _heaviest(sp.csr_array(left[first:last] @ right), first, scale_j, most_neighbors)
        for first, last in _blocks(left, np.diff(searched.indptr))
    ]
    rows, columns, values = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.lexsort((rows, columns))  # by history item, then by item
    targets, sources, values = rows[order], columns[order], values[order]
    found = Neighbors(
        starts=np.searchsorted(sources, np.arange(num_items + 1)),
        targets=targets.astype(np.int32),
        weights=(values.real * scale_j[sources] * scale_i[targets]).astype(np.float32),
        num_people=np.rint(values.imag).astype(np.int32),
    )
    for user in np.flatnonzero(is_heavy):
        _count_person(found, seen.indices[seen.indptr[user] : seen.indptr[user + 1]], num_items)
    return found


def _pattern(matrix: Any) -> tuple[Ints, Ints]:
    return matrix.indices, matrix.indptr


def _thinned(seen: Any, is_heavy: npt.NDArray[np.bool_], most_items: int) -> Any:
    """Return the interactions with at most `most_items`, evenly spread, of each heavy user."""
    if not is_heavy.any():
        return seen
    of_users = np.diff(seen.indptr)
    place = np.arange(seen.nnz) - np.repeat(seen.indptr[:-1], of_users)
    step = np.repeat(np.maximum(of_users / most_items, 1.0), of_users)
    is_kept = np.floor(place / step) != np.floor((place - 1) / step)
    rows = np.repeat(np.arange(len(of_users)), of_users)[is_kept]
    values = np.ones(len(rows), np.float32)
    return sp.csr_array((values, (rows, seen.indices[is_kept])), shape=seen.shape)


def _blocks(left: Any, of_users: Ints) -> Iterator[tuple[int, int]]:
    """Yield ranges of items whose product takes about `PRODUCTS_PER_BLOCK` multiplications."""
    costs = np.add.reduceat(
        np.append(of_users[left.indices].astype(np.int64), 0), left.indptr[:-1]
    ) * (np.diff(left.indptr) > 0)
    ends = np.cumsum(costs)
    first = 0
    while first < len(ends):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + PRODUCTS_PER_BLOCK)))
        yield first, last
        first = last


def _heaviest(
    block: Any, first: int, scale_j: npt.NDArray[np.float64], most: int
) -> tuple[Ints, Ints, Any]:
    """Return the items, their heaviest history items, and the entries of a block of the product.

    Of equal weights the lower index is kept.
    """
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    weights = block.data.real * scale_j[block.indices]
    weights[rows + first == block.indices] = 0  # the item itself
    chosen = []
    for start, stop in zip(block.indptr[:-1], block.indptr[1:], strict=True):
        own = weights[start:stop]
        if len(own) > most:
            least = np.partition(own, len(own) - most)[len(own) - most]
            above, tied = np.flatnonzero(own > least), np.flatnonzero(own == least)
            tied = tied[block.indices[start + tied].argsort()]
            places = np.concatenate([above, tied[: most - len(above)]])
        else:
            places = np.arange(len(own))
        chosen.append(start + places[own[places] > 0])
    at = np.concatenate([np.empty(0, np.int64), *chosen])
    return rows[at] + first, block.indices[at], block.data[at]


def _count_person(found: Neighbors, items: Ints, num_items: int) -> None:
    """Add one to the counts of all kept pairs that both are among `items`."""
    has = np.zeros(num_items, bool)
    has[items] = True
    for item in items:
        pairs = slice(found.starts[item], found.starts[item + 1])
        found.num_people[pairs] += has[found.targets[pairs]]
