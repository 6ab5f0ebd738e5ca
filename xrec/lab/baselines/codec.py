"""Texts as rows of words, and back.

Words are those of a vocabulary of the training explanations. A piece is a word by Unicode's rules
(UAX 29) or a single mark, with a blank in front if one stands before it: "It's fine." has the
pieces "It's", " fine", ".". So joined pieces are the text again, to the letter, but for runs of
blanks and line breaks, which become one blank.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from xrec.data.language import composed, word_spans

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Words:
    """The pieces that a model knows, by their id; the first four are `SPECIAL`."""

    pieces: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], max_words: int) -> "Words":
        """The `max_words` most frequent pieces of texts; of equal ones the first by letters."""
        counts = Counter(piece for text in texts for piece in pieces_of(text))
        frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:max_words]
        return cls((*SPECIAL, *frequent))

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def _ids(self) -> dict[str, int]:
        # A text's "<pad>" is three pieces, so no piece of a text is special.
        return {piece: index for index, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text's pieces, without an end; UNKNOWN for pieces that are not known."""
        return [self._ids.get(piece, UNKNOWN) for piece in pieces_of(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids that were written; it goes to the first end."""
        written = token_ids[: token_ids.index(END)] if END in token_ids else token_ids
        return "".join(self.pieces[index] for index in written).strip()


def pieces_of(text: str) -> list[str]:
    """The pieces of a text, composed (NFC)."""
    text = " ".join(composed(text).split())
    spans: list[tuple[int, int]] = []
    for start, stop in [*word_spans(text), (len(text), len(text))]:
        end = spans[-1][1] if spans else 0
        spans += [(place, place + 1) for place in range(end, start) if text[place] != " "]
        spans += [(start, stop)] if stop > start else []
    return [text[start - (start > 0 and text[start - 1] == " ") : stop] for start, stop in spans]
