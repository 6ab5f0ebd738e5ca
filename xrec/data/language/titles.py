"""Finds titles in texts: where a text names its own item, and whether it names another one.

Texts and titles are compared word by word, ignoring case, the kind of apostrophe, "&" versus "and",
and the marks between words. A possessive "'s" is not part of a name, so "The Rusty Compass's tea"
names "The Rusty Compass"; in a title such as "Wendy's", it is. In Chinese, Japanese, Thai, Lao,
Khmer, and Burmese, which are written without spaces, each character is a word.

A name must not begin or end with a lowercase word, so "the friendly staff" does not name the café
"The Friendly". If a title has more than twelve words, its name is the first twelve, even if the
last of them is lowercase. A one-word title is often a common word too ("Target", "Cake"), so in a
text about another item it only counts in the middle of a sentence and not next to another
capitalized word. Misspelled names, and lowercase names whose title has capitals, are not found.
"""

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.storage import Arrays, mapped_arrays

Span = tuple[int, int]
"""Start and end of a part of a text, as for slicing."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['\u2019][^\W{_UNSPACED}]+)*|&")
_SENTENCE_BREAK = re.compile(r"[.!?\u2026:;\n]")
_ARTICLE = "the"
_POSSESSIVE = "'s"
_MAX_WORDS = 12  # of a title; longer ones are identified by their first words
_MIN_LETTERS, _MIN_LETTERS_WITHOUT_CASE = 2, 4
_MIN_SHORT_NAME = 3
_RULES = 1  # version of these rules, part of the names of the files of hashes


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    written: str
    key: str

    @property
    def owner(self) -> str:
        """The key without the "'s" of a possessive."""
        return self.key.removesuffix(_POSSESSIVE)

    @property
    def is_small(self) -> bool:
        return self.written[0].islower()

    @property
    def is_capitalized(self) -> bool:
        return self.written[0].isupper()


def composed(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC), the form in which titles are searched."""
    return unicodedata.normalize("NFC", text)


def title_spans(text: str, title: str) -> list[Span]:
    """Return where `text` names the item `title` in full.

    `text` must be `composed`. The leading "The" of a title of three or more words is optional.
    """
    title = composed(title)
    words, name = _words(text), _words(title)
    if not _can_be_found(name):
        return []
    has_article = len(name) > 2 and name[0].key == _ARTICLE != name[1].key
    named = name[1:] if has_article else name
    spans, end_of_last = list[Span](), 0
    for start, stop in _found(words, named):
        if start >= end_of_last and _is_written_like(words[start:stop], named):
            end_of_last = stop
            if has_article:
                start -= _follows_article(words, start)
            span = words[start].start, _end(words[stop - 1], name[-1])
            spans.append(_with_marks(text, title, span))
    return spans


def without_spans(text: str, spans: Iterable[Span]) -> str:
    """Return `text` with each character in `spans` replaced by a letter.

    A mark at the end of a span is kept. So "Café 21." can end a sentence, although "21." alone, a
    number below 100, cannot.
    """
    for start, end in spans:
        last = text[end - 1]
        kept = last if not last.isalnum() else "x"
        text = text[:start] + "x" * (end - start - 1) + kept + text[end:]
    return text


class TitleIndex:
    """Searches `composed` texts for the titles of a catalog.

    It stores hashes of their words, about 20 per title. They are cached in files on this node if
    `name` identifies the titles; computing them takes about a second for 30,000 titles.
    """

    def __init__(self, titles: Iterable[str] | pa.ChunkedArray, name: str | None = None):
        make = partial(_hashes_of, titles)
        self._hashes = make() if name is None else mapped_arrays(f"{name}.titles-{_RULES}", make)

    @classmethod
    def of_column(cls, titles: pa.ChunkedArray) -> Self:
        """Return the index of a column of titles; reads them only if no hashes are cached."""
        digest = hashlib.sha256()
        for chunk in titles.chunks:
            digest.update(pa.record_batch([chunk], ["title"]).serialize())
        return cls(titles, digest.hexdigest()[:16])

    def other_title(self, text: str, title: str, context: Sequence[str] = ()) -> str | None:
        """Return the first name in `text` of an item other than its own, or None.

        `title` is the title of the text's own item. A name that occurs in it, or in one of the
        texts in `context`, is not counted.
        """
        words = _words(text)
        candidates = [
            (start, stop)
            for start, stop in self._known(words)
            if stop - start > 1
            or not (
                _begins_sentence(words, start, text)
                or _has_capitalized_neighbour(words, start, stop, text)
            )
        ]
        # Most texts name only their own item. The context is long, so it is read only if needed.
        for known in (title, *context):
            if not candidates:
                return None
            known_words = _words(composed(known))
            owners = (word.owner for word in known_words)
            said = f" {' '.join(_key(known_words))} | {' '.join(owners)} "
            candidates = [
                (start, stop)
                for start, stop in candidates
                if all(f" {' '.join(key)} " not in said for key in _keys(words[start:stop]))
            ]
        if not candidates:
            return None
        start, stop = candidates[0]
        return text[words[start].start : words[stop - 1].end]

    def own_spans(self, text: str, title: str) -> list[Span]:
        """Return where `text` names the item `title` by its full or short name.

        A short name is the title's first words, if no other title contains them.
        """
        taken, name = title_spans(text, title), _words(composed(title))
        if _can_be_found(name):
            for span in self._short_spans(text, name):
                if all(span[1] <= start or span[0] >= end for start, end in taken):
                    taken.append(span)
        return sorted(taken)

    def _short_spans(self, text: str, name: list[_Word]) -> Iterator[Span]:
        """Yield where `text` has the first words of a name, longest first."""
        words, has_article = _words(text), name[0].key == _ARTICLE
        named = name[1:] if has_article else name
        for length in range(len(named) - (not has_article), 0, -1):
            short = named[:length]
            is_known = _are_among(self._hashes["phrases"], [_key(short)])[0]
            num_letters = sum(len(word.written) for word in short)
            if is_known or short[-1].is_small or num_letters < _MIN_SHORT_NAME:
                continue
            for start, stop in _found(words, short):
                if (
                    _is_name(words[start:stop])
                    and not _has_capitalized_neighbour(words, start, stop, text)
                    and (length > 1 or not _begins_sentence(words, start, text))
                ):
                    if has_article:
                        start -= _follows_article(words, start)
                    yield words[start].start, _end(words[stop - 1], short[-1])

    def _known(self, words: list[_Word]) -> list[tuple[int, int]]:
        """Return the runs of words that are written like a name and are a title."""
        runs = [
            (start, stop)
            for start, first in enumerate(words)
            if not first.is_small or first.key == _ARTICLE
            for stop in range(min(len(words), start + _MAX_WORDS), start, -1)
            if stop - start == _MAX_WORDS  # that many words of a title are not a common phrase
            or (not words[stop - 1].is_small and _is_name(words[start:stop]))
        ]
        keys = [(run, key) for run in runs for key in _keys(words[slice(*run)])]
        is_title = _are_among(self._hashes["names"], [key for _, key in keys])
        return list(
            dict.fromkeys(run for (run, _), known in zip(keys, is_title, strict=True) if known)
        )


def _hashes_of(titles: Iterable[str] | pa.ChunkedArray) -> Arrays:
    """Return sorted hashes of the titles' names, and of phrases in two or more titles."""
    names, known, phrases = set[int](), set[int](), array("q")
    for title in titles:
        words = _words(composed(str(title)))
        key = _key(words)
        if _can_be_found(words):
            names.add(_hash(key[:_MAX_WORDS]))
        if (whole := _hash(key)) not in known:
            known.add(whole)
            phrases.extend(
                {
                    _hash(key[start:stop])
                    for start in range(len(key))
                    for stop in range(start + 1, min(len(key), start + _MAX_WORDS) + 1)
                }
            )
    held, counts = np.unique(np.array(phrases, np.int64), return_counts=True)
    return {
        "names": np.sort(np.fromiter(names, np.int64, len(names))),
        "phrases": held[counts > 1],
    }


def _hash(key: Sequence[str]) -> int:
    """Return a 64-bit hash that is the same in all processes."""
    digest = hashlib.blake2b(" ".join(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _are_among(hashes: npt.NDArray[np.int64], keys: Sequence[Sequence[str]]) -> list[bool]:
    """Return whether the hash of each key is in the sorted `hashes`."""
    wanted = np.array([_hash(key) for key in keys], np.int64)
    places = np.searchsorted(hashes, wanted)
    there = places < len(hashes)
    there[there] = hashes[places[there]] == wanted[there]
    return list(map(bool, there))


def _words(text: str) -> list[_Word]:
    return [
        _Word(
            *match.span(),
            match[0],
            "and" if match[0] == "&" else composed(match[0]).casefold().replace("\u2019", "'"),
        )
        for match in _WORD.finditer(text)
    ]


def _key(words: Sequence[_Word]) -> tuple[str, ...]:
    return tuple(word.key for word in words)


def _keys(words: Sequence[_Word]) -> list[tuple[str, ...]]:
    """Return the key of a name as written, and without a possessive "'s" if it has one."""
    key = _key(words)
    owner = words[-1].owner
    return [key] if owner == key[-1] else [key, (*key[:-1], owner)]


def _end(last: _Word, own: _Word) -> int:
    """Return where a name ends; its last word is `own`, or `last` as written in the text."""
    return last.end if last.key == own.key else last.end - len(_POSSESSIVE)


def _can_be_found(name: Sequence[_Word]) -> bool:
    """Return whether a title has enough letters; others would be found everywhere."""
    letters = "".join(word.written for word in name if word.written != "&")
    has_case = any(letter.isupper() or letter.islower() for letter in letters)
    least = _MIN_LETTERS if has_case else _MIN_LETTERS_WITHOUT_CASE
    return len(letters) >= least and not (len(name) == 1 and letters.isdigit())


def _is_name(words: Sequence[_Word]) -> bool:
    """Return whether neither the first word (after "the") nor the last one is lowercase."""
    named = words[1:] if len(words) > 1 and words[0].key == _ARTICLE else words
    return not (named[0].is_small or named[-1].is_small)


def _is_written_like(words: Sequence[_Word], name: Sequence[_Word]) -> bool:
    """Return whether the first and last words are lowercase only if the title's are."""
    first = 1 if len(name) > 1 and name[0].key == _ARTICLE else 0
    return all(not words[place].is_small or name[place].is_small for place in (first, -1))


def _found(words: Sequence[_Word], name: Sequence[_Word]) -> Iterator[tuple[int, int]]:
    """Yield the runs of `words` that are the name, as start and stop."""
    (*first_keys, last_key), keys = _key(name), [word.key for word in words]
    for stop in range(len(name), len(words) + 1):
        is_last = last_key in (words[stop - 1].key, words[stop - 1].owner)
        if is_last and keys[stop - len(name) : stop - 1] == first_keys:
            yield stop - len(name), stop


def _follows_article(words: Sequence[_Word], start: int) -> bool:
    return start > 0 and words[start - 1].key == _ARTICLE


def _with_marks(text: str, title: str, span: Span) -> Span:
    """Return the span extended by the marks around the title's words, if the text has them."""
    words = _words(title)
    before, after = title[: words[0].start], title[words[-1].end :]
    start, end = span
    if before and text[:start].endswith(before):
        start -= len(before)
    if after and text.startswith(after, end):
        end += len(after)
    return start, end


def _begins_sentence(words: Sequence[_Word], place: int, text: str) -> bool:
    if place == 0:
        return True
    gap = text[words[place - 1].end : words[place].start]
    return _SENTENCE_BREAK.search(gap) is not None


def _has_capitalized_neighbour(words: Sequence[_Word], start: int, stop: int, text: str) -> bool:
    """Return whether a word next to it, after spaces or hyphens, makes it a longer name."""
    before = start - 1
    if before >= 0 and (words[before].key == _ARTICLE or _begins_sentence(words, before, text)):
        before = -1
    return any(
        (words[place].is_capitalized or words[place].written == "&")
        and not text[words[left].end : words[left + 1].start].strip(" -")
        for place, left in ((before, before), (stop, stop - 1))
        if 0 <= place < len(words)
    )
