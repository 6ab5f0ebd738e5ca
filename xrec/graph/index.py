"""The best items of users from an approximate index, instead of all dot products."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xrec.graph.ranking import More, Ranked, SeenItems, stable_top_k, top_k_items
from xrec.storage import mapped

_MOST_FOUND, _USERS_PER_SEARCH = 1024, 256


class ItemIndex:
    """An HNSW index (arXiv 1603.09320) of items by inner product, in a file of this node.

    A single thread builds it, so it is the same on every node: 3 minutes for 1e6 items.
    """

    def __init__(
        self,
        name: str,
        items: torch.Tensor,
        lost: npt.NDArray[np.int64],
        *,
        num_links: int = 32,
        num_build: int = 80,
        num_search: int = 128,
    ):
        """Build the index of items (I, D) float32 without the `lost` (G,), or open its file.

        `name` identifies both. num_build and num_search are HNSW's efConstruction and its minimum
        efSearch.
        """
        kept = np.setdiff1d(np.arange(len(items)), lost)
        build = functools.partial(_build, items, kept, num_links, num_build)
        self._num_search = num_search
        self._index = mapped(f"{name}-{num_links}-{num_build}.hnsw", build, _open)
        self._ids = torch.from_numpy(np.append(kept, -1))  # faiss returns -1 for no item

    def top_k(
        self,
        users: torch.Tensor,
        items: torch.Tensor,
        seen: SeenItems,
        rows: torch.Tensor,
        k: int,
        *,
        more: More | None = None,
    ) -> Ranked:
        """Yield one chunk like those of `top_k_items`, for the users `rows` (N,).

        The search asks for as many more items as the user has seen. The `_MOST_FOUND` items with
        the largest additions from `more` are candidates too. Users who need more than `_MOST_FOUND`
        items, or for whom fewer than k are found, are ranked exactly.
        """
        best, scores = torch.full((len(rows), k), -1), torch.full((len(rows), k), -torch.inf)
        needed = k + torch.bincount(seen.of(rows)[0], minlength=len(rows))
        few = needed <= min(_MOST_FOUND, self._index.ntotal)
        for some in needed.argsort()[: int(few.sum())].split(_USERS_PER_SEARCH):
            if not len(some):  # nobody has few
                break
            number = min(max(self._num_search, int(needed[some[-1]])), self._index.ntotal)
            vectors, (of_user, known) = users[rows[some]], seen.of(rows[some])
            found = self._search(vectors, number)
            added = None if more is None else more(rows[some])
            if added is not None:
                found = _with_most_added(found, *added)
            of_found = (items[found] @ vectors[:, :, None])[:, :, 0]
            keys = found + torch.arange(len(some))[:, None] * len(items)
            if added is not None:
                of_found += _added_at(keys, added[0] * len(items) + added[1], added[2])
            is_out = torch.isin(keys, known + of_user * len(items)) | (found < 0)
            is_out |= torch.isin(found, seen.lost)
            scores[some], at = stable_top_k(of_found.masked_fill(is_out, -torch.inf), k)
            best[some] = found.gather(1, at)
        rest = (scores[:, -1] == -torch.inf).nonzero()[:, 0]
        exact = top_k_items(users, items, seen, rows[rest], k, more=more)
        _, best[rest], scores[rest] = map(torch.cat, zip(*exact, strict=True))
        yield rows, best, scores

    def _search(self, users: torch.Tensor, number: int) -> torch.Tensor:
        """Return `number` items near each of `users` (B, D), ascending, padded with -1."""
        import faiss

        settings = faiss.SearchParametersHNSW(efSearch=number)
        _, places = self._index.search(users.numpy(), number, params=settings)
        return self._ids[torch.from_numpy(places)].sort(dim=1).values


def _with_most_added(
    found: torch.Tensor, rows: torch.Tensor, items: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Return the items (B, N) and the `_MOST_FOUND` of each row with the largest `values` (M,).

    rows: (M,), ascending. The result is ascending; -1 replaces missing and repeated items.
    """
    counts = torch.bincount(rows, minlength=len(found))
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    size = len(found), int(counts.max()) if len(rows) else 0
    added, sums = torch.full(size, -1), torch.full(size, -torch.inf)
    added[rows, place], sums[rows, place] = items.long(), values
    added = added.gather(1, sums.topk(min(size[1], _MOST_FOUND), dim=1).indices)
    every = torch.cat([found, added], dim=1).sort(dim=1).values
    every[:, 1:][every[:, 1:] == every[:, :-1]] = -1
    return every.sort(dim=1).values


def _added_at(keys: torch.Tensor, of: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return at `keys` (B, N) the `values` (M,) of the keys `of` (M,), or 0."""
    if not len(of):
        return torch.zeros(keys.shape)
    of, order = of.sort()
    at = torch.searchsorted(of, keys).clamp(max=len(of) - 1)
    return torch.where(of[at] == keys, values[order][at], 0.0)


def _build(
    items: torch.Tensor, kept: npt.NDArray[np.int64], num_links: int, num_build: int, path: Path
) -> None:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(items.shape[1], num_links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = num_build
    for some in torch.from_numpy(kept).split(65_536):
        index.add(items[some].numpy())
    faiss.write_index(index, str(path))


def _open(path: Path) -> Any:
    """Return the index in a file, mapped; raises ValueError if the file is truncated."""
    import faiss

    faiss.omp_set_num_threads(1)
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
