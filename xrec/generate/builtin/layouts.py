"""Turns the spans that a schedule chose into the tensors that attention needs."""

import itertools
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.builtin.attention import Extent, PackedLayout, Part, SharedPrefixes
from xrec.generate.builtin.kv_cache import Block, KVCache
from xrec.generate.builtin.requests import Request, Span

_SHARE_OF_WHOLE_SLOTS = 0.75


def layout_of(spans: Sequence[Span], cache: KVCache) -> PackedLayout:
    """The layout of a pass over spans, in which those of one block follow each other."""
    parts, first = [], 0
    for _, group in itertools.groupby(spans, key=lambda span: id(span.sequence.block)):
        members = list(group)
        count = sum(span.stop - span.start for span in members)
        parts.append(_part(members, first, first + count, cache.shape.device))
        first += count
    return PackedLayout(cache, _places(spans, cache), parts)


def token_ids(spans: Sequence[Span]) -> list[int]:
    """The token ids of a pass, one span after the other."""
    return [token for span in spans for token in span.sequence.token_ids[span.start : span.stop]]


def positions(spans: Sequence[Span]) -> list[int]:
    """The positions of these tokens, counted from the beginning of their prompts."""
    return [position + _offset(span) for span in spans for position in range(span.start, span.stop)]


def num_seen_keys(spans: Sequence[Span]) -> int:
    """The number of pairs of a token and a position of its sequence, later positions included."""
    return sum((span.stop - span.start) * (span.stop + _offset(span)) for span in spans)


def num_key_cells(layout: PackedLayout) -> int:
    """The number of query-key products that attention computes for a layout."""
    return sum(_num_key_cells(part) for part in layout.parts)


def _num_key_cells(part: Part) -> int:
    num_cells, columns = part.positions.numel(), part.positions.shape[1]
    shared = part.prefixes
    on_prefixes = (
        shared.num_prefixes * shared.max_members * columns * shared.extent.length if shared else 0
    )
    return num_cells * part.own.length + on_prefixes


def _offset(span: Span) -> int:
    return len(span.sequence.prefix.token_ids) if isinstance(span.sequence, Request) else 0


def _places(spans: Sequence[Span], cache: KVCache) -> torch.Tensor:
    """Where the keys of each token and head go: rows (T * heads,) of a layer of the cache."""
    heads = cache.shape.num_heads
    firsts: list[int] = []
    lengths: list[int] = []
    for span in spans:
        block = span.sequence.block
        assert block is not None
        first = (block.start + span.sequence.slot * block.slot_length) * heads
        firsts += range(first + span.start, first + span.stop)
        lengths += [block.slot_length] * (span.stop - span.start)
    of_heads = torch.tensor(lengths)[:, None] * torch.arange(heads)
    return (torch.tensor(firsts)[:, None] + of_heads).flatten().to(cache.shape.device)


def _part(spans: Sequence[Span], first: int, last: int, device: torch.device) -> Part:
    """The part of attention over spans of one block, which are the tokens `first` to `last`."""
    counts = [span.stop - span.start for span in spans]
    columns = max(counts)
    starts = torch.tensor([span.start for span in spans], device=device)
    cells = [row * columns + column for row, count in enumerate(counts) for column in range(count)]
    block = spans[0].sequence.block
    assert block is not None
    return Part(
        tokens=slice(first, last),
        own=_extent(
            block,
            _slots([span.sequence.slot for span in spans], device),
            max(span.stop for span in spans),
        ),
        positions=starts[:, None] + torch.arange(columns, device=device),
        cells=None if columns == 1 else torch.tensor(cells, device=device),
        token_of_cell=None if columns == 1 else _inverse(cells, len(spans) * columns, device),
        prefixes=_shared_prefixes(spans, device),
    )


def _extent(block: Block, slots: slice | Tensor, length: int) -> Extent:
    """The first `length` positions, or whole slots where that is not much more.

    A CPU's products copy operands with gaps, which costs them a quarter to a third of their time.
    """
    is_much_more = length < _SHARE_OF_WHOLE_SLOTS * block.slot_length
    without_gaps = isinstance(slots, slice) and not is_much_more
    return Extent(block, slots, block.slot_length if without_gaps else length)


def _shared_prefixes(spans: Sequence[Span], device: torch.device) -> SharedPrefixes | None:
    requests = [span.sequence for span in spans if isinstance(span.sequence, Request)]
    if not requests or requests[0].prefix.block is None:
        return None
    slots = _read_slots(sorted({request.prefix.slot for request in requests}))
    place_of = {slot: place for place, slot in enumerate(slots)}
    num_members = Counter(request.prefix.slot for request in requests)
    max_members = max(num_members.values())
    counts: Counter[int] = Counter()
    members = []
    for request in requests:
        slot = request.prefix.slot
        members.append(place_of[slot] * max_members + counts[slot])
        counts[slot] += 1
    lengths = [len(request.prefix.token_ids) for request in requests]
    return SharedPrefixes(
        extent=_extent(requests[0].prefix.block, _slots(slots, device), max(lengths)),
        members=torch.tensor(members, device=device),
        rows=_inverse(members, len(slots) * max_members, device),
        lengths=torch.tensor(lengths, device=device),
        num_prefixes=len(slots),
        max_members=max_members,
    )


def _read_slots(used: list[int]) -> list[int]:
    """The slots to read: without a gap if that is not much more than those that are used."""
    whole = list(range(used[0], used[-1] + 1))
    return whole if 4 * len(whole) <= 5 * len(used) else used


def _slots(slots: Sequence[int], device: torch.device) -> slice | torch.Tensor:
    """The slots as a slice if they are consecutive, so that reading them is a view and no copy."""
    first = slots[0]
    if list(slots) == list(range(first, first + len(slots))):
        return slice(first, first + len(slots))
    return torch.tensor(slots, device=device)


def _inverse(places: Sequence[int], size: int, device: torch.device) -> torch.Tensor:
    """The inverse (size,) of `places`: the index that is at each place, and 0 at empty places."""
    inverse = torch.zeros(size, dtype=torch.long)
    inverse[torch.tensor(places)] = torch.arange(len(places))
    return inverse.to(device)
