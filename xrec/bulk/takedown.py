"""What was taken down from a table: the list beside it, and rows without what is on it.

    _xrec/takedowns/000001.json      created once; a later entry may lift an earlier one

A takedown is on the list before anything is done to the table. Each commit of xrec says up to which
entry it heeds the list, so whoever opens the table next sees whether something is left to be taken
out of it (`xrec.bulk.table.open_whole`).

An entry names rows by some of their columns, a phrase, or forgotten users by the keyed hashes of
their ids (xrec.storage.forgotten); these cannot be lifted. A phrase is looked for in the columns of
explanations that hold sentences: the text, and the words of reviewers beside it. It is compared in
Unicode's composed form and with case folded; any white space equals any other, and a typographic
apostrophe a plain one. Where it begins or ends with a letter, a digit or "_", no other may touch
it: "tea" is in "Tea, please" and not in "steak" or "teas".
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.errors import TableError
from xrec.storage import Location, Record, request_each
from xrec.storage.forgotten import Forgotten
from xrec.storage.location import with_backoff

TAKEN_DOWN = "taken_down"
"""Why a row of an input is not planned, though its ids are well."""
_LIST = "_xrec/takedowns"
_NAME = re.compile(r"(\d+)\.json")
_TEXT, _LISTED, _QUOTED = "explanation", "aspects", "opinion"
_SAME = ("rows", "phrase", "lifts", "users", "key")
_CHANCES = 100


class Entry(Record):
    """What is taken down, or which entry is lifted; key: hex digits; at: UTC, ISO 8601."""

    rows: tuple[dict[str, str], ...] = ()
    phrase: str = ""
    lifts: int | None = None
    users: tuple[str, ...] = ()
    key: str = ""
    reason: str
    at: str


class Takedowns:
    """The list as it was read; entries have numbers from 1 on.

    active: those that take something down and were not lifted. forgotten: all of their users, one
    set for each key, so that a user is hashed once for a key and not once for an entry. `_phrases`
    has the phrases by their first word: a text is searched only for phrases whose word it has.
    """

    def __init__(self, entries: Mapping[int, Entry]):
        self.entries = dict(sorted(entries.items()))
        lifted = {entry.lifts for entry in entries.values()}
        lifted |= {number for number, entry in entries.items() if entry.lifts}
        self.active = {n: entry for n, entry in self.entries.items() if n not in lifted}
        self._rows: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}
        for number, entry in self.active.items():
            for row in entry.rows:
                names = tuple(sorted(row))
                self._rows.setdefault(names, {})[tuple(row[name] for name in names)] = number
        self._phrases: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
        users: dict[str, set[str]] = {}
        for number, entry in self.active.items():
            if entry.phrase:
                word, *_ = [*_words(_folded(entry.phrase)), ""]
                self._phrases.setdefault(word, []).append((number, _pattern(entry.phrase)))
            if entry.users:
                users.setdefault(entry.key, set()).update(entry.users)
        self.forgotten = tuple(
            Forgotten(bytes.fromhex(key), frozenset(hashes)) for key, hashes in users.items()
        )

    @property
    def number(self) -> int:
        """Of the last entry; 0 if there is none."""
        return max(self.entries, default=0)

    def after(self, number: int) -> "Takedowns":
        """What is active of the entries after one."""
        return Takedowns({n: entry for n, entry in self.active.items() if n > number})

    def of_row(self, values: Mapping[str, str]) -> int | None:
        """The entry that takes a row down by these columns; None if none does."""
        if self.is_forgotten(values.get("user_id", "")):
            return self.number
        keys = ((taken, tuple(map(values.get, names))) for names, taken in self._rows.items())
        return next((taken[key] for taken, key in keys if key in taken), None)  # type: ignore[index]

    def is_forgotten(self, user_id: str) -> bool:
        """Whether a user is to be known no more."""
        return any(each.has(user_id) for each in self.forgotten)

    def of_texts(self, texts: Iterable[str]) -> int | None:
        """The entry whose phrase one of the texts has; None if none has any."""
        if not self._phrases:
            return None
        folded = [_folded(text) for text in texts]
        words = {"", *(word for text in folded for word in _words(text))}
        near = (each for word in words for each in self._phrases.get(word, ()))
        return min((n for n, phrase in near if any(map(phrase.search, folded))), default=None)

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows that are not taken down, in their order; the very table if that is all."""
        if not self.active or not (taken := self._mask(rows)).any():
            return rows
        return rows.filter(pa.array(~taken))

    def columns(self, schema: pa.Schema) -> list[str]:
        """The columns of a table that tell which rows are taken down."""
        texts = (_TEXT, _LISTED) if self._phrases else ()
        ids = ("user_id",) if self.forgotten else ()
        return sorted({*texts, *ids, *(n for names in self._rows for n in names)} & {*schema.names})

    def _mask(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        taken = np.zeros(rows.num_rows, dtype=bool)
        there = set(rows.column_names)
        for each in self.forgotten if "user_id" in there else ():
            taken |= each.mask(rows["user_id"]).to_numpy()
        for names, values in self._rows.items():
            if not there.issuperset(names):
                continue
            columns = zip(names, zip(*values, strict=True), strict=True)
            near = reduce(pc.and_, (pc.is_in(rows[n], pa.array(some)) for n, some in columns))
            for place in np.flatnonzero(near.to_numpy()):
                taken[place] |= tuple(rows[name][place].as_py() for name in names) in values
        if self._phrases and _TEXT in there:
            found = (self._is_in(text) for text in rows[_TEXT].to_pylist())
            taken |= np.fromiter(found, dtype=bool, count=rows.num_rows)
        if self._phrases and _LISTED in there:
            lists = rows[_LISTED].combine_chunks()
            quotes = pc.list_flatten(lists).field(_QUOTED).to_pylist()
            are_taken = np.array([self._is_in(quote) for quote in quotes], dtype=bool)
            taken[pc.list_parent_indices(lists).to_numpy()[are_taken]] = True
        return taken

    def _is_in(self, text: str | None) -> bool:
        return bool(text) and self.of_texts([text or ""]) is not None


def read_takedowns(output: Location, known: Takedowns | None = None) -> Takedowns:
    """The list of the table at `output`; entries of `known` are not read again.

    It takes one listing, and a request for each entry that is new. Raises ArtifactMismatchError if
    this xrec cannot read an entry; StorageError.
    """
    there = map(_NAME.fullmatch, (output / _LIST).sizes())
    numbers = {int(match[1]): match[0] for match in there if match}
    entries = {} if known is None else known.entries
    entries = entries if entries.keys() <= numbers.keys() else {}  # it was deleted and made anew
    new = sorted(numbers.keys() - entries.keys())
    if known is not None and entries == known.entries and not new:
        return known
    read = request_each(lambda number: Entry.read(output / _LIST / numbers[number]), new)
    return Takedowns({**entries, **dict(zip(new, read, strict=True))})


def put_on_list(output: Location, **what: object) -> int:
    """Put an entry on the list; returns its number, or that of an active one that says the same.

    what: fields of `Entry`, without the time. Raises TableError if the entry to be lifted is not
    there, or takes nothing down; StorageError.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry.model_validate({**what, "at": at})
    return with_backoff(lambda: _put(output, entry))


def _put(output: Location, entry: Entry) -> int:
    for _ in range(_CHANCES):
        there = read_takedowns(output)
        same = there.entries if entry.lifts is not None else there.active
        for number, each in same.items():
            if all(getattr(each, name) == getattr(entry, name) for name in _SAME):
                return number  # this very one, whose answer was lost, or an earlier command's
        may_be_lifted = [number for number, each in there.active.items() if not each.users]
        if entry.lifts is not None and entry.lifts not in may_be_lifted:
            known = ", ".join(map(str, may_be_lifted)) or "none"
            raise TableError(
                f"{output}: takedown {entry.lifts} is not there: expected one of: {known}"
            )
        file = output / _LIST / f"{there.number + 1:06d}.json"
        if file.create_bytes(entry.to_bytes()):
            return there.number + 1
    raise TableError(f"{output}: the list of takedowns changes all the time; try again later")


def forget_on_list(output: Location, forgotten: Forgotten, reason: str) -> int:
    """Put on the list who is not on it; returns the number of the last entry of forgotten users.

    Earlier entries that name them by their ids do so no more. Raises as `put_on_list` does.
    """
    there = read_takedowns(output)
    new = forgotten.hashes.difference(*(each.hashes for each in there.forgotten))
    if new:
        users, key = tuple(sorted(new)), forgotten.key.hex()
        put_on_list(output, users=users, key=key, reason=reason)
    for number, entry in there.entries.items():
        rows = tuple(row for row in entry.rows if not forgotten.has(row.get("user_id", "")))
        if rows != entry.rows:
            left = entry.model_copy(update={"rows": rows, "reason": reason})
            (output / _LIST / f"{number:06d}.json").write_bytes(left.to_bytes())
    return max((n for n, each in read_takedowns(output).active.items() if each.users), default=0)


def _pattern(phrase: str) -> re.Pattern[str]:
    words = _folded(phrase).split()
    inner = r"\s+".join(map(re.escape, words))
    before = r"(?<!\w)" if re.match(r"\w", words[0]) else ""
    after = r"(?!\w)" if re.search(r"\w$", words[-1]) else ""
    return re.compile(f"{before}{inner}{after}")


def _words(folded: str) -> list[str]:
    """The runs of letters, digits and "_" of a folded text.

    No match of a pattern begins or ends within a run, so a text that has a phrase has its words.
    """
    return re.findall(r"\w+", folded)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().replace("\u2019", "'")
