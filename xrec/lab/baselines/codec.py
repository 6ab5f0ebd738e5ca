"""Texts as token IDs and back: in words of the training explanations, or a language model's tokens.

A piece is a word by Unicode's rules (UAX 29) or a single mark, including the blank before it: "It's
fine." has the pieces "It's", " fine", ".". So joined pieces are the text again, except that a run
of blanks and line breaks becomes one blank.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from xrec.data.language import composed, word_spans

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


@dataclass(frozen=True)
class Words:
    """The pieces that a model knows, by ID; the first four are `SPECIAL`."""

    pieces: tuple[str, ...]
    end = END

    @classmethod
    def of(cls, texts: Iterable[str], max_words: int) -> "Words":
        """Return the `max_words` most frequent pieces of the texts; ties go by spelling."""
        counts = Counter(piece for text in texts for piece in pieces_of(text))
        frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:max_words]
        return cls((*SPECIAL, *frequent))

    @cached_property
    def _ids(self) -> dict[str, int]:
        # In a text, "<pad>" is three pieces, so no piece of a text is special.
        return {piece: index for index, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """Return the IDs of a text's pieces, without an end; UNKNOWN for unknown pieces."""
        return [self._ids.get(piece, UNKNOWN) for piece in pieces_of(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of IDs, up to the first end token."""
        written = token_ids[: token_ids.index(END)] if END in token_ids else token_ids
        return "".join(self.pieces[index] for index in written).strip()


class LanguageModelTokens:
    """The tokens of a language model; `end` is its end token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return the IDs of a text, without an end."""
        options = {"add_special_tokens": False, "split_special_tokens": True}
        return list(self._tokenizer(" ".join(composed(text).split()), **options)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of IDs, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True)).strip()


Codec = Words | LanguageModelTokens


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text in NFC."""
    text = " ".join(composed(text).split())
    spans: list[tuple[int, int]] = []
    for start, stop in [*word_spans(text), (len(text), len(text))]:
        end = spans[-1][1] if spans else 0
        spans += [(place, place + 1) for place in range(end, start) if text[place] != " "]
        spans += [(start, stop)] if stop > start else []
    return [text[start - (start > 0 and text[start - 1] == " ") : stop] for start, stop in spans]
