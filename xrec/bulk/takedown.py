"""A table's list of takedowns, and the removal of the rows on it.

    _xrec/takedowns/000001.json      created once; a later entry may lift an earlier one

A command reads the whole list and creates its entry under the next number. If another command was
first, it starts over with the longer list. Numbers have no gaps, so deleted entries are noticed,
and nothing is committed to the table until they are back.

A takedown is added to the list before the table changes. Each commit records the last entry it
honors, so the next opening of the table removes the remaining rows (`xrec.bulk.table.open_whole`).

An entry gives column values of rows, a phrase, or forgotten users as keyed hashes of their IDs
(xrec.storage.forgotten), which cannot be lifted. A phrase is searched for in the text and in the
reviewers' words beside it, in Unicode's composed form, ignoring case and differences in white
space, and with typographic apostrophes as plain ones. Only whole words match: "tea" is found in
"Tea, please" but not in "steak" or "teas".
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from xrec.bulk.log import open_log
from xrec.errors import TableError
from xrec.storage import Forgotten, Location, Record, request_each, with_backoff

_LIST = "_xrec/takedowns"
_NAME = re.compile(r"(\d+)\.json")
_TEXT, _LISTED, _QUOTED = "explanation", "aspects", "opinion"
_SAME = ("rows", "phrase", "lifts", "users", "key")
_CHANCES = 100
T = TypeVar("T")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Entry(Record):
    """An entry: what it takes down or lifts; blank if it was replaced or has no rows left.

    key: of the hashes `users`, in hex. replaces: the number of the entry whose rows this one
    repeats, without forgotten users. restarts: whether earlier entries may be missing
    (`restart_list`). at: UTC, ISO 8601.
    """

    rows: tuple[dict[str, str], ...] = ()
    phrase: str = ""
    lifts: int | None = None
    users: tuple[str, ...] = ()
    key: str = ""
    replaces: int | None = None
    restarts: bool = False
    reason: str
    at: str = Field(default_factory=_now)

    @property
    def takes_down(self) -> bool:
        return bool(self.rows or self.phrase or self.users)

    @property
    def is_blank(self) -> bool:
        return not (self.takes_down or self.lifts or self.restarts)


class Takedowns:
    """The list as it was read; entries are numbered from 1.

    active: entries that take something down and were neither lifted nor replaced. stamps: those of
    the entries' files. forgotten: all forgotten users, one set per key, so that a user is hashed
    once per key and not once per entry. `_phrases` has the phrases by first word, so that a text is
    searched only for phrases whose first word it contains.
    """

    def __init__(self, entries: Mapping[int, Entry], stamps: Mapping[int, str] | None = None):
        self.entries, self.stamps = dict(sorted(entries.items())), dict(stamps or {})
        ended = {n for entry in entries.values() for n in (entry.lifts, entry.replaces)}
        self.active = {
            n: entry for n, entry in self.entries.items() if entry.takes_down and n not in ended
        }
        self._rows: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}
        self._phrases: dict[str, list[tuple[int, re.Pattern[str]]]] = {}
        users: dict[str, set[str]] = {}
        for number, entry in self.active.items():
            for row in entry.rows:
                names = tuple(sorted(row))
                self._rows.setdefault(names, {})[tuple(row[name] for name in names)] = number
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
        """The number of the last entry, or 0."""
        return max(self.entries, default=0)

    def lost(self, number: int = 0) -> list[int]:
        """Return the missing numbers of a list that had at least `number` entries."""
        first = max((n for n, entry in self.entries.items() if entry.restarts), default=1)
        return [n for n in range(first, max(self.number, number) + 1) if n not in self.entries]

    def is_whole_after(self, number: int) -> bool:
        """Return whether no entry after `number` is missing."""
        return all(n in self.entries for n in range(number + 1, self.number + 1))

    def after(self, number: int) -> "Takedowns":
        """Return the active entries after `number`."""
        return Takedowns({n: entry for n, entry in self.active.items() if n > number})

    def of_row(self, values: Mapping[str, str]) -> int | None:
        """Return the number of an entry that takes down a row with these values, or None."""
        if self.is_forgotten(values.get("user_id", "")):
            return self.number
        keys = ((taken, tuple(map(values.get, names))) for names, taken in self._rows.items())
        return next((taken[key] for taken, key in keys if key in taken), None)  # type: ignore[index]

    def is_forgotten(self, user_id: str) -> bool:
        return any(users.has(user_id) for users in self.forgotten)

    def of_texts(self, texts: Iterable[str]) -> int | None:
        """Return the number of the first entry whose phrase is in one of the texts, or None."""
        if not self._phrases:
            return None
        folded = [_folded(text) for text in texts]
        words = {"", *(word for text in folded for word in _words(text))}
        near = (pair for word in words for pair in self._phrases.get(word, ()))
        return min((n for n, phrase in near if any(map(phrase.search, folded))), default=None)

    def without(self, rows: pa.Table) -> pa.Table:
        """Return the rows that are not taken down; if that is all of them, `rows` itself."""
        if not self.active or not (taken := self._mask(rows)).any():
            return rows
        return rows.filter(pa.array(~taken))

    def columns(self, schema: pa.Schema) -> list[str]:
        """Return the columns that decide which rows of a table are taken down."""
        texts = (_TEXT, _LISTED) if self._phrases else ()
        ids = ("user_id",) if self.forgotten else ()
        return sorted({*texts, *ids, *(n for names in self._rows for n in names)} & {*schema.names})

    def _mask(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        taken = np.zeros(rows.num_rows, dtype=bool)
        columns = set(rows.column_names)
        for users in self.forgotten if "user_id" in columns else ():
            taken |= users.mask(rows["user_id"]).to_numpy()
        for names, values in self._rows.items():
            if not columns.issuperset(names):
                continue
            pairs = zip(names, zip(*values, strict=True), strict=True)
            near = reduce(pc.and_, (pc.is_in(rows[name], pa.array(some)) for name, some in pairs))
            for index in np.flatnonzero(near.to_numpy()):
                taken[index] |= tuple(rows[name][index].as_py() for name in names) in values
        if self._phrases and _TEXT in columns:
            taken |= self._has_phrase(rows[_TEXT])
        if self._phrases and _LISTED in columns:
            lists = rows[_LISTED].combine_chunks()
            quotes = self._has_phrase(pc.list_flatten(lists).field(_QUOTED))
            taken[pc.list_parent_indices(lists).to_numpy()[quotes]] = True
        return taken

    def _has_phrase(self, texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        has = (bool(text) and self.of_texts([text]) is not None for text in texts.to_pylist())
        return np.fromiter(has, dtype=bool, count=len(texts))


def read_takedowns(output: Location, known: Takedowns | None = None) -> Takedowns:
    """Read the list of the table at `output`.

    known: a list read earlier. Entries whose files did not change are not read again, so this takes
    one listing and one request per new entry.

    Raise TableError if entries are missing, ArtifactMismatchError if this version of xrec cannot
    read an entry, StorageError.
    """
    if known is not None:
        taken = _read(output, known)
        if known.entries.keys() <= taken.entries.keys() and not taken.lost():
            return taken
    num_honored = _num_honored(output)
    taken = _read(output, known or Takedowns({}))
    _refuse_lost(output, taken, num_honored)
    return taken


def _num_honored(output: Location) -> int:
    """Return the minimum length of the list; call this before reading the list."""
    log = open_log(output)
    return 0 if log is None else log.num_takedowns


def _read(output: Location, known: Takedowns) -> Takedowns:
    """Read the list even if entries are missing."""
    while (stamps := _stamps(output)) != known.stamps:
        same = {n: entry for n, entry in known.entries.items() if stamps.get(n) == known.stamps[n]}
        new = sorted(stamps.keys() - same.keys())
        read = list(request_each(lambda number: Entry.read(_file(output, number)), new))
        known = Takedowns({**same, **dict(zip(new, read, strict=True))}, stamps)
        if not any(entry.is_blank for entry in read):
            break
        # The replacement of a blank entry may be newer than the listing.
    return known


def _stamps(output: Location) -> dict[int, str]:
    names = (output / _LIST).stamps().items()
    return {int(match[1]): stamp for name, stamp in names if (match := _NAME.fullmatch(name))}


def _file(output: Location, number: int) -> Location:
    return output / _LIST / f"{number:06d}.json"


def _refuse_lost(output: Location, taken: Takedowns, num_honored: int) -> None:
    if lost := taken.lost(num_honored):
        raise TableError(
            f"{output}: {len(lost)} takedowns are missing, such as number {lost[0]}: someone "
            f"deleted files in {output / _LIST}, where numbers 1 to "
            f"{max(taken.number, num_honored)} are expected. Nothing is published until they are "
            "back. Restore them from a backup; if there is none, run `xrec table takedown "
            f"{output} --restart --reason WHY`, then `xrec forget`, and repeat the other takedowns "
            "before the next run",
            code="takedowns_gone",
            key=str(output),
            saw=lost,
        )


def put_on_list(output: Location, entry: Entry) -> int:
    """Add an entry unless an identical one is active; return its number.

    Raise TableError if the entry to lift does not exist or takes nothing down, and the errors of
    `read_takedowns`.
    """

    def unless_listed(taken: Takedowns) -> Entry | int:
        listed = taken.entries if entry.lifts is not None else taken.active
        for number, other in listed.items():
            if all(getattr(other, name) == getattr(entry, name) for name in _SAME):
                return number  # an earlier command created it, or this one did but got no answer
        may_be_lifted = [number for number, other in taken.active.items() if not other.users]
        if entry.lifts is not None and entry.lifts not in may_be_lifted:
            known = ", ".join(map(str, may_be_lifted)) or "none"
            raise TableError(
                f"{output}: there is no takedown {entry.lifts} to lift; expected one of: {known}",
                code="unknown_takedown",
                key="lift",
                saw=entry.lifts,
            )
        return entry

    return with_backoff(lambda: _append(output, unless_listed))


def forget_on_list(output: Location, forgotten: Forgotten, reason: str) -> int:
    """Add users not yet on the list; return the number of the last entry with forgotten users.

    Each earlier entry that names them by ID is replaced by one without those rows, and then
    blanked. Raise the errors of `put_on_list`.
    """

    def next_entry(taken: Takedowns) -> Entry | Takedowns:
        listed = {user for entry in taken.active.values() for user in entry.users}
        if new := forgotten.hashes - listed:
            return Entry(users=tuple(sorted(new)), key=forgotten.key.hex(), reason=reason)
        for number, entry in taken.active.items():
            rows = _without(entry.rows, forgotten)
            if rows and rows != entry.rows:
                return Entry(rows=rows, replaces=number, reason=reason)
        return taken

    def forget() -> int:
        while isinstance(taken := _append(output, next_entry), int):
            pass
        for number, entry in taken.entries.items():
            if _without(entry.rows, forgotten) != entry.rows:
                _file(output, number).write_bytes(Entry(reason="", at="").to_bytes())
        return max(number for number, entry in taken.active.items() if entry.users)

    return with_backoff(forget)


def _without(rows: tuple[dict[str, str], ...], forgotten: Forgotten) -> tuple[dict[str, str], ...]:
    return tuple(row for row in rows if not forgotten.has(row.get("user_id", "")))


def restart_list(output: Location, reason: str) -> int:
    """Continue the list without its missing entries; return the number of the new entry.

    Versions that honor the missing entries still lack their rows, older versions can no longer be
    restored, and the next run may bring the rows back. Raise TableError if no entry is missing.
    """

    num_honored = _num_honored(output)

    def entry(taken: Takedowns) -> Entry | int:
        if taken.lost(num_honored):
            return Entry(restarts=True, reason=reason)
        if taken.entries and taken.entries[taken.number].restarts:
            return taken.number  # another command created it, or this one did but got no answer
        raise TableError(
            f"{output}: no takedown is missing, so the list cannot be restarted",
            code="no_takedown_gone",
            key=str(output),
        )

    return with_backoff(lambda: _append(output, entry, refuse_lost=False))


def _append(
    output: Location, decide: Callable[[Takedowns], Entry | T], *, refuse_lost: bool = True
) -> int | T:
    """Create the next entry of the list and return its number.

    decide: makes the entry from the current list. It is called again if another command adds one
    first. If it returns anything but an entry, nothing is created and its value is returned.
    """
    for _ in range(_CHANCES):
        num_honored = _num_honored(output)
        taken = _read(output, Takedowns({}))
        if refuse_lost:
            _refuse_lost(output, taken, num_honored)
        if not isinstance(made := decide(taken), Entry):
            return made
        number = max(taken.number, num_honored) + 1
        if _file(output, number).create_bytes(made.to_bytes()):
            return number
    raise TableError(
        f"{output}: the list of takedowns keeps changing; try again later",
        code="list_changes",
        key=str(output),
        saw=_CHANCES,
    )


def _pattern(phrase: str) -> re.Pattern[str]:
    words = _folded(phrase).split()
    before = r"(?<!\w)" if re.match(r"\w", words[0]) else ""
    after = r"(?!\w)" if re.search(r"\w$", words[-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)


def _words(folded: str) -> list[str]:
    """Split a folded text into words; matches of `_pattern` start and end at word boundaries."""
    return re.findall(r"\w+", folded)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().replace("\u2019", "'")
