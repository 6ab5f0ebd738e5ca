"""Turns the spans that a schedule chose into the tensors that attention needs."""

import itertools
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.packed.arena import Arena, Slab
from xrec.generate.packed.attention import Extent, Kernel, PackedLayout, Part, SharedPrefixes
from xrec.generate.packed.sequences import Row, Span

_SHARE_OF_WHOLE_SLOTS = 0.75


def layout_of(spans: Sequence[Span], arena: Arena, kernel: Kernel) -> PackedLayout:
    """The layout of a pass over spans, in which those of one slab follow each other."""
    parts, first = [], 0
    for _, group in itertools.groupby(spans, key=lambda span: id(span.sequence.slab)):
        members = list(group)
        count = sum(span.stop - span.start for span in members)
        parts.append(_part(members, first, first + count, arena.shape.device))
        first += count
    return PackedLayout(arena, _places(spans, arena), parts, kernel)


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
    return len(span.sequence.prefix.token_ids) if isinstance(span.sequence, Row) else 0


def _places(spans: Sequence[Span], arena: Arena) -> torch.Tensor:
    """Where the keys of each token and head go: rows (T * heads,) of a layer of the arena."""
    heads = arena.shape.num_heads
    firsts: list[int] = []
    lengths: list[int] = []
    for span in spans:
        slab = span.sequence.slab
        assert slab is not None
        first = (slab.start + span.sequence.slot * slab.slot_length) * heads
        firsts += range(first + span.start, first + span.stop)
        lengths += [slab.slot_length] * (span.stop - span.start)
    of_heads = torch.tensor(lengths)[:, None] * torch.arange(heads)
    return (torch.tensor(firsts)[:, None] + of_heads).flatten().to(arena.shape.device)


def _part(spans: Sequence[Span], first: int, last: int, device: torch.device) -> Part:
    """The part of attention over spans of one slab, which are the tokens `first` to `last`."""
    counts = [span.stop - span.start for span in spans]
    columns = max(counts)
    starts = torch.tensor([span.start for span in spans], device=device)
    cells = [row * columns + column for row, count in enumerate(counts) for column in range(count)]
    slab = spans[0].sequence.slab
    assert slab is not None
    return Part(
        tokens=slice(first, last),
        own=_extent(
            slab,
            _slots([span.sequence.slot for span in spans], device),
            max(span.stop for span in spans),
        ),
        positions=starts[:, None] + torch.arange(columns, device=device),
        cells=None if columns == 1 else torch.tensor(cells, device=device),
        token_of_cell=None if columns == 1 else _inverse(cells, len(spans) * columns, device),
        prefixes=_shared_prefixes(spans, device),
    )


def _extent(slab: Slab, slots: slice | Tensor, length: int) -> Extent:
    """The first `length` positions, or whole slots where that is not much more.

    A CPU's products copy operands with gaps, which costs them a quarter to a third of their time.
    """
    is_much_more = length < _SHARE_OF_WHOLE_SLOTS * slab.slot_length
    without_gaps = isinstance(slots, slice) and not is_much_more
    return Extent(slab, slots, slab.slot_length if without_gaps else length)


def _shared_prefixes(spans: Sequence[Span], device: torch.device) -> SharedPrefixes | None:
    rows = [span.sequence for span in spans if isinstance(span.sequence, Row)]
    if not rows or rows[0].prefix.slab is None:
        return None
    slots = _read_slots(sorted({row.prefix.slot for row in rows}))
    place_of = {slot: place for place, slot in enumerate(slots)}
    num_rows = Counter(row.prefix.slot for row in rows)
    max_members = max(num_rows.values())
    counts: Counter[int] = Counter()
    members = []
    for row in rows:
        members.append(place_of[row.prefix.slot] * max_members + counts[row.prefix.slot])
        counts[row.prefix.slot] += 1
    lengths = [len(row.prefix.token_ids) for row in rows]
    return SharedPrefixes(
        extent=_extent(rows[0].prefix.slab, _slots(slots, device), max(lengths)),
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
