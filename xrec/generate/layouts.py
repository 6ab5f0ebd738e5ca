"""Turns the spans that a schedule chose into the tensors that attention needs."""

from collections import Counter
from collections.abc import Sequence

import torch

from xrec.generate.key_values import KeyValueStore
from xrec.generate.packed_attention import Extent, PackedLayout, SharedPrefixes
from xrec.generate.schedule import Row, Span


def prefix_layout(spans: Sequence[Span], store: KeyValueStore) -> PackedLayout:
    """The layout of a pass over prefixes, each of which attends to its own slot only."""
    return _layout(spans, store, None)


def row_layout(
    spans: Sequence[Span], rows: KeyValueStore, prefixes: KeyValueStore | None
) -> PackedLayout:
    """The layout of a pass over rows, each of which attends to its prefix's slot and its own."""
    sequences = [span.sequence for span in spans if isinstance(span.sequence, Row)]
    if prefixes is None or not any(row.prefix.token_ids for row in sequences):
        return _layout(spans, rows, None)
    return _layout(spans, rows, _shared_prefixes(sequences, prefixes))


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
    num_cells, columns = layout.positions.numel(), layout.positions.shape[1]
    shared = layout.prefixes
    on_prefixes = (
        shared.num_prefixes * shared.max_members * columns * shared.extent.length if shared else 0
    )
    return num_cells * layout.own.length + on_prefixes


def _offset(span: Span) -> int:
    return len(span.sequence.prefix.token_ids) if isinstance(span.sequence, Row) else 0


def _layout(
    spans: Sequence[Span], store: KeyValueStore, shared: SharedPrefixes | None
) -> PackedLayout:
    device = store.tensor.device
    counts = [span.stop - span.start for span in spans]
    columns = max(counts)
    starts = torch.tensor([span.start for span in spans], device=device)
    places = [
        (sequence, column) for sequence, count in enumerate(counts) for column in range(count)
    ]
    own_positions = [spans[sequence].start + column for sequence, column in places]
    slots = [span.sequence.slot for span in spans]
    cells = [sequence * columns + column for sequence, column in places]
    return PackedLayout(
        own=Extent(store, _slots(slots, device), max(span.stop for span in spans)),
        slots=torch.tensor([slots[sequence] for sequence, _ in places], device=device),
        own_positions=torch.tensor(own_positions, device=device),
        positions=starts[:, None] + torch.arange(columns, device=device),
        cells=None if columns == 1 else torch.tensor(cells, device=device),
        tokens=None if columns == 1 else _inverse(cells, len(spans) * columns, device),
        prefixes=shared,
    )


def _shared_prefixes(rows: Sequence[Row], store: KeyValueStore) -> SharedPrefixes:
    used = sorted({row.prefix.slot for row in rows})
    place_of = {slot: place for place, slot in enumerate(used)}
    counts: Counter[int] = Counter()
    members = []
    max_members = max(Counter(row.prefix.slot for row in rows).values())
    for row in rows:
        members.append(place_of[row.prefix.slot] * max_members + counts[row.prefix.slot])
        counts[row.prefix.slot] += 1
    lengths = [len(row.prefix.token_ids) for row in rows]
    device = store.tensor.device
    return SharedPrefixes(
        extent=Extent(store, _slots(used, device), max(lengths)),
        members=torch.tensor(members, device=device),
        rows=_inverse(members, len(used) * max_members, device),
        lengths=torch.tensor(lengths, device=device),
        num_prefixes=len(used),
        max_members=max_members,
    )


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
