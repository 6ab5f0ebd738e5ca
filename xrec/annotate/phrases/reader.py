"""Parses each text once; actors read stored mentions of the texts that were learned from."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
from pydantic import TypeAdapter

from xrec.annotate.phrases.mentions import Mention, read_mentions
from xrec.data.language import other_language, parse
from xrec.storage import Location, read_table

READ = "annotator/read.parquet"
READ_SCHEMA = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("mentions", pa.string())]
)
MENTIONS: TypeAdapter[tuple[Mention, ...]] = TypeAdapter(tuple[Mention, ...])
"""Converts a text's mentions to JSON and back."""
_MAX_KEPT_TEXTS = 2**14  # profiles are written again without some of their reviews


class Reader:
    """Finds what texts mention.

    stored: the mentions, as JSON, of texts that were parsed before, by `key_of`.
    """

    def __init__(self, stored: Mapping[bytes, str] | None = None):
        self._stored = stored or {}
        self._known: dict[str, tuple[Mention, ...] | None] = {}

    def parse(self, texts: Iterable[str]) -> None:
        """Parse texts in advance, which is faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _MAX_KEPT_TEXTS:
            self._known.clear()
        unread = []
        for text in new:
            if (stored := self._stored.get(key_of(text))) is not None:
                self._known[text] = MENTIONS.validate_json(stored)
            else:
                unread.append(text)
        self._known.update(zip(unread, read_texts(unread), strict=True))

    def mentions(self, text: str) -> tuple[Mention, ...] | None:
        """Return the mentions of a text, in order; None if it is not in English."""
        if text not in self._known:
            self.parse([text])
        return self._known[text]


def key_of(text: str) -> bytes:
    """Return the 16-byte key under which the mentions of a text are stored."""
    data = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def read_stored(output: Location) -> dict[bytes, str]:
    """Return the mentions, as JSON, of the texts that the lexicon learned from, by `key_of`."""
    table = read_table(output / READ, READ_SCHEMA)
    return dict(zip(table["key"].to_pylist(), table["mentions"].to_pylist(), strict=True))


def read_texts(texts: Sequence[str]) -> list[tuple[Mention, ...] | None]:
    """Return the mentions of each text; None if it is not in English, unless too short to tell."""
    are_english = [other_language(text, "English") is None for text in texts]
    docs = parse(itertools.compress(texts, are_english))
    return [read_mentions(next(docs)) if is_english else None for is_english in are_english]
