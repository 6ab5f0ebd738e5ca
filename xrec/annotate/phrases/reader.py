"""Parses each text once; actors read stored mentions of the texts that were learned from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from operator import attrgetter

import pyarrow as pa

from xrec.annotate.phrases.mentions import Mention, Word, read
from xrec.data.language import other_language, parse, valence
from xrec.storage import Location, read_table

READ = "annotator/read.parquet"
READ_SCHEMA = pa.schema(
    [pa.field("key", pa.binary(), nullable=False), pa.field("mentions", pa.string())]
)
_FIELDS = (
    *("names", "written", "described", "implied_by", "of"),
    *("words", "beside", "praise", "roles"),
)
_MAX_KEPT_TEXTS = 2**14  # profiles are written again without some of their reviews


class Reader:
    """Finds what texts mention.

    learned: valences of words that English lexicons lack. stored: the packed mentions (`pack`) of
        texts that were parsed before, by `key_of`.
    """

    def __init__(self, learned: Mapping[str, float], stored: Mapping[bytes, str] | None = None):
        self._learned, self._stored = learned, stored or {}
        self._known: dict[str, tuple[Mention, ...] | None] = {}

    def parse(self, texts: Iterable[str]) -> None:
        """Parse texts in advance, which is faster than one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) > _MAX_KEPT_TEXTS:
            self._known.clear()
        self._known.update(dict.fromkeys(new))
        unread = []
        for text in new:
            if (stored := self._stored.get(key_of(text))) is not None:
                self._known[text] = self._judged(unpack(stored))
            elif is_english(text):
                unread.append(text)
        for text, doc in zip(unread, parse(unread), strict=True):
            self._known[text] = self._judged(read(doc).mentions)

    def mentions(self, text: str) -> tuple[Mention, ...] | None:
        """Return the mentions of a text, in order; None if it is not in English."""
        if text not in self._known:
            self.parse([text])
        return self._known[text]

    def _judged(self, mentions: Iterable[Mention]) -> tuple[Mention, ...]:
        """Return the judged mentions, without implied ones that are neither good nor bad."""
        judged = (mention.judged(self._valence) for mention in mentions)
        return tuple(mention for mention in judged if mention.sign or not mention.implied_by)

    def _valence(self, word: str) -> float:
        return valence(word) or self._learned.get(word, 0.0)


def key_of(text: str) -> bytes:
    """Return the 16-byte key under which the mentions of a text are stored."""
    data = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def pack(mentions: Iterable[Mention]) -> str:
    """Return mentions as JSON."""
    return json.dumps(list(map(attrgetter(*_FIELDS), mentions)), default=sorted)


def unpack(stored: str) -> list[Mention]:
    """Return the mentions that `pack` was given."""
    return [
        Mention(
            *(tuple(names), tuple(written), described, implied_by, of),
            *(tuple(Word(*word) for word in words), tuple(beside), praise, frozenset(roles)),
        )
        for names, written, described, implied_by, of, words, beside, praise, roles in json.loads(
            stored
        )
    ]


def read_stored(output: Location) -> dict[bytes, str]:
    """Return the packed mentions of the texts that the lexicon learned from, by `key_of`."""
    table = read_table(output / READ, READ_SCHEMA)
    return dict(zip(table["key"].to_pylist(), table["mentions"].to_pylist(), strict=True))


def is_english(text: str) -> bool:
    """Return whether a text is in English, or too short to tell."""
    return other_language(text, "English") is None
