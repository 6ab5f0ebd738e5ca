"""What was taken down from a table: the list beside it, and rows without what is on it.

    _xrec/takedowns/000001.json      created once; a later entry may lift an earlier one

An entry is made from the whole list, and created under the next number, so of two commands that
make one at the same time, the second begins again with what the first one added. Numbers have no
gap, so entries that someone deleted are missed, and then nothing is committed to the table.

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
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.errors import TableError
from xrec.storage import Forgotten, Location, Record, request_each, with_backoff
from xrec.storage.delta import open_log

TAKEN_DOWN = "taken_down"
"""Why a row of an input is not planned, though its ids are well."""
_LIST = "_xrec/takedowns"
_NAME = re.compile(r"(\d+)\.json")
_TEXT, _LISTED, _QUOTED = "explanation", "aspects", "opinion"
_SAME = ("rows", "phrase", "lifts", "users", "key")
_CHANCES = 100
T = TypeVar("T")


class Entry(Record):
    """What is taken down, or which entry is lifted; blank if it was replaced, or names nobody now.

    key: hex digits. replaces: the entry whose rows these are, without those of forgotten users.
    restarts: whether entries before it may be gone (`restart_list`). at: UTC, ISO 8601.
    """

    rows: tuple[dict[str, str], ...] = ()
    phrase: str = ""
    lifts: int | None = None
    users: tuple[str, ...] = ()
    key: str = ""
    replaces: int | None = None
    restarts: bool = False
    reason: str
    at: str

    @property
    def takes_down(self) -> bool:
        return bool(self.rows or self.phrase or self.users)

    @property
    def is_blank(self) -> bool:
        return not (self.takes_down or self.lifts or self.restarts)


class Takedowns:
    """The list as it was read; entries have numbers from 1 on.

    active: those that take something down, and were neither lifted nor replaced. stamps: of the
    entries' files. forgotten: all of their users, one set for each key, so that a user is hashed
    once for a key and not once for an entry. `_phrases` has the phrases by their first word: a text
    is searched only for phrases whose word it has.
    """

    def __init__(self, entries: Mapping[int, Entry], stamps: Mapping[int, str] | None = None):
        self.entries, self.stamps = dict(sorted(entries.items())), dict(stamps or {})
        ended = {number for each in entries.values() for number in (each.lifts, each.replaces)}
        self.active = {
            n: each for n, each in self.entries.items() if each.takes_down and n not in ended
        }
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

    def lost(self, number: int = 0) -> list[int]:
        """The numbers of entries that are gone, of a list that had so many, at least."""
        first = max((n for n, each in self.entries.items() if each.restarts), default=1)
        numbers = range(first, max(self.number, number) + 1)
        return [each for each in numbers if each not in self.entries]

    def is_whole_after(self, number: int) -> bool:
        """Whether no entry after one is gone; `after` would lack it."""
        return all(each in self.entries for each in range(number + 1, self.number + 1))

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
    """The list of the table at `output`.

    known: what was read before. Files that are still the same are not read again, so it takes one
    listing, and a request for each entry that is new.

    Raises TableError if entries are gone, ArtifactMismatchError if this xrec cannot read an entry,
    and StorageError.
    """
    if known is not None:
        taken = _read(output, known)
        if known.entries.keys() <= taken.entries.keys() and not taken.lost():
            return taken
    heeded = _num_heeded(output)
    taken = _read(output, known or Takedowns({}))
    _refuse_lost(output, taken, heeded)
    return taken


def _num_heeded(output: Location) -> int:
    """How many entries the list must have; to be asked before the list is read."""
    log = open_log(output)
    return 0 if log is None else log.num_takedowns


def _read(output: Location, known: Takedowns) -> Takedowns:
    """The list, whatever it lacks."""
    while (stamps := _stamps(output)) != known.stamps:
        same = {n: each for n, each in known.entries.items() if stamps.get(n) == known.stamps[n]}
        new = sorted(stamps.keys() - same.keys())
        read = list(request_each(lambda number: Entry.read(_file(output, number)), new))
        known = Takedowns({**same, **dict(zip(new, read, strict=True))}, stamps)
        if not any(each.is_blank for each in read):
            break
        # What replaces a blank entry may have come after the listing: look again.
    return known


def _stamps(output: Location) -> dict[int, str]:
    there = (output / _LIST).stamps().items()
    found = ((_NAME.fullmatch(name), stamp) for name, stamp in there)
    return {int(match[1]): stamp for match, stamp in found if match}


def _file(output: Location, number: int) -> Location:
    return output / _LIST / f"{number:06d}.json"


def _refuse_lost(output: Location, taken: Takedowns, heeded: int) -> None:
    if lost := taken.lost(heeded):
        raise TableError(
            f"{output}: {len(lost)} takedowns are gone, such as number {lost[0]}: someone deleted "
            f"files in {output / _LIST}, where numbers 1 to {max(taken.number, heeded)} are "
            "expected. Nothing is published until they are back. Restore them from a copy; if "
            f"there is none, run `xrec table takedown {output} --restart --reason WHY`, then "
            "`xrec forget`, and repeat the other takedowns before the next run",
            code="takedowns_gone",
            key=str(output),
            saw=lost,
        )


def put_on_list(output: Location, **what: object) -> int:
    """Put an entry on the list; returns its number, or that of an active one that says the same.

    what: fields of `Entry`, without the time. Raises TableError if the entry to be lifted is not
    there, or takes nothing down; and what `read_takedowns` raises.
    """
    entry = _entry(**what)
    return with_backoff(lambda: _append(output, lambda there: _unless_there(output, there, entry)))


def _unless_there(output: Location, there: Takedowns, entry: Entry) -> Entry | int:
    same = there.entries if entry.lifts is not None else there.active
    for number, each in same.items():
        if all(getattr(each, name) == getattr(entry, name) for name in _SAME):
            return number  # this very one, whose answer was lost, or an earlier command's
    may_be_lifted = [number for number, each in there.active.items() if not each.users]
    if entry.lifts is not None and entry.lifts not in may_be_lifted:
        known = ", ".join(map(str, may_be_lifted)) or "none"
        raise TableError(
            f"{output}: takedown {entry.lifts} is not there: expected one of: {known}",
            code="unknown_takedown",
            key="lift",
            saw=entry.lifts,
        )
    return entry


def forget_on_list(output: Location, forgotten: Forgotten, reason: str) -> int:
    """Put on the list who is not on it; returns the number of the last entry of forgotten users.

    Earlier entries that name them by their ids do so no more: an entry without these rows replaces
    each, and then the earlier one is made blank. Raises what `put_on_list` raises.
    """

    def next_entry(there: Takedowns) -> Entry | Takedowns:
        listed = {each for entry in there.active.values() for each in entry.users}
        if new := forgotten.hashes - listed:
            return _entry(users=tuple(sorted(new)), key=forgotten.key.hex(), reason=reason)
        for number, entry in there.active.items():
            rows = _without(entry.rows, forgotten)
            if rows and rows != entry.rows:
                return _entry(rows=rows, replaces=number, reason=reason)
        return there

    def forget() -> int:
        while isinstance(there := _append(output, next_entry), int):
            pass
        for number, entry in there.entries.items():
            if _without(entry.rows, forgotten) != entry.rows:
                _file(output, number).write_bytes(Entry(reason="", at="").to_bytes())
        return max(number for number, entry in there.active.items() if entry.users)

    return with_backoff(forget)


def _without(rows: tuple[dict[str, str], ...], forgotten: Forgotten) -> tuple[dict[str, str], ...]:
    return tuple(row for row in rows if not forgotten.has(row.get("user_id", "")))


def restart_list(output: Location, reason: str) -> int:
    """Go on with a list that lacks entries, which are lost; returns the number of the new entry.

    What they took down is in no version that heeds them, and older ones are not restored any more;
    but the next run may have it. Raises TableError if no entry is gone.
    """

    heeded = _num_heeded(output)

    def entry(there: Takedowns) -> Entry | int:
        if there.lost(heeded):
            return _entry(restarts=True, reason=reason)
        if there.entries and there.entries[there.number].restarts:
            return there.number  # whose answer was lost, or another command's
        raise TableError(
            f"{output}: no takedown is gone, so the list cannot be restarted",
            code="no_takedown_gone",
            key=str(output),
        )

    return with_backoff(lambda: _append(output, entry, refuse_lost=False))


def _append(
    output: Location, decide: Callable[[Takedowns], Entry | T], *, refuse_lost: bool = True
) -> int | T:
    """Create the next entry of the list; returns its number.

    decide: makes the entry from the list as it is; nobody else has added to it before the entry is
    there. If it returns anything else, nothing is created, and that is returned.
    """
    for _ in range(_CHANCES):
        heeded = _num_heeded(output)
        there = _read(output, Takedowns({}))
        if refuse_lost:
            _refuse_lost(output, there, heeded)
        if not isinstance(made := decide(there), Entry):
            return made
        number = max(there.number, heeded) + 1
        if _file(output, number).create_bytes(made.to_bytes()):
            return number
    raise TableError(
        f"{output}: the list of takedowns changes all the time; try again later",
        code="list_changes",
        key=str(output),
        saw=_CHANCES,
    )


def _entry(**what: object) -> Entry:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry.model_validate({**what, "at": at})


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
