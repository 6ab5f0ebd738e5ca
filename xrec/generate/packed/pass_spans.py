"""What is computed in one pass over prompts."""

from xrec.generate.packed.sequences import Prefix, Row, Span


class PassSpans:
    """The spans of one pass.

    They have at most `limit` tokens together. Each slab's spans are padded to the longest of them;
    all together have at most 4 * `limit` cells.
    """

    def __init__(self, limit: int):
        self.spans: list[Span] = []
        self.is_full = False
        self._limit, self._left = limit, limit
        self._sizes: dict[int, tuple[int, int]] = {}

    def add(self, sequence: Prefix | Row, start: int, stop: int) -> bool:
        """Add as many of the tokens `start` to `stop` as fit; returns whether all did."""
        end = min(stop, start + self._left)
        assert sequence.slab is not None
        slab = id(sequence.slab)
        count, longest = self._sizes.get(slab, (0, 0))
        sizes = {**self._sizes, slab: (count + 1, max(longest, end - start))}
        if end == start or sum(many * long for many, long in sizes.values()) > 4 * self._limit:
            self.is_full = True
            return False
        self._sizes = sizes
        self.spans.append(Span(sequence, start, end))
        self._left -= end - start
        self.is_full = not self._left
        return end == stop

    def ordered(self) -> list[Span]:
        """The spans of each slab one after the other, in the order of their slots."""
        order = {slab: place for place, slab in enumerate(self._sizes)}
        return sorted(
            self.spans, key=lambda span: (order[id(span.sequence.slab)], span.sequence.slot)
        )
