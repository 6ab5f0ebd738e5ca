"""The log of a Delta table: entry N says what commit N added and removed.

An entry is created once and never changed: `Location.create_bytes` lets one of several writers
win. This is the compare-and-swap on which the table rests. Entries are JSON lines as the Delta
protocol describes them (https://github.com/delta-io/delta, PROTOCOL.md). The first line is
`commitInfo`; its field `xrec` says which driver made the commit. An entry without it was written by
another program.
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xrec import __version__
from xrec.errors import StorageNotFoundError, TableError
from xrec.storage import Location

FOLDER = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.json", re.ASCII)
_OF_VERSION = re.compile(r"(\d{20})\.[^/]*", re.ASCII)
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet", re.ASCII)

Kind = Literal["create", "take-over", "write", "compact", "vacuum"]
Action = Mapping[str, Any]

_OPERATIONS: Mapping[Kind, str] = {
    "create": "CREATE TABLE",
    "take-over": "WRITE",
    "write": "WRITE",
    "compact": "OPTIMIZE",
    "vacuum": "VACUUM START",
}
"""What other tools show as the operation of a commit."""


class Commit(BaseModel):
    """Who made a commit, and what they said about it; the field `xrec` of `commitInfo`.

    id: of this commit alone, so that a driver whose answer was lost can tell its own commit.
    epoch: how often the table was taken over before and including this commit's driver.
    holder: the name that the driver gave itself when it took the table over.
    metadata: JSON values of the driver's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    epoch: int
    holder: str
    kind: Kind
    metadata: dict[str, Any]
    committed_at: datetime

    @classmethod
    def new(cls, epoch: int, holder: str, kind: Kind, metadata: Mapping[str, Any]) -> "Commit":
        """A commit of this moment, with an id of its own.

        Raises ValueError if JSON cannot express the metadata, as with NaN or an infinity.
        """
        try:
            as_json = json.loads(json.dumps(dict(metadata), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"metadata {dict(metadata)}: JSON cannot express it: {error}"
            ) from None
        return cls(
            id=uuid.uuid4().hex,
            epoch=epoch,
            holder=holder,
            kind=kind,
            metadata=as_json,
            committed_at=datetime.now(UTC),
        )

    @property
    def at_ms(self) -> int:
        """When the commit was made, by its driver's clock, in milliseconds since 1970."""
        return int(self.committed_at.timestamp() * 1000)

    def to_action(self) -> Action:
        """The first line of the entry."""
        return {
            "commitInfo": {
                "timestamp": self.at_ms,
                "operation": _OPERATIONS[self.kind],
                "operationParameters": {},
                "engineInfo": f"xrec/{__version__}",
                "xrec": self.model_dump(mode="json"),
            }
        }


@dataclass(frozen=True)
class Log:
    """The log of the table at `table`."""

    table: Location

    def entry(self, version: int) -> Location:
        """Where the entry of a version lies."""
        return self.table / FOLDER / f"{version:020d}.json"

    def create(self, version: int, commit: Commit, actions: Iterable[Action]) -> bool:
        """Create the entry of `version`; returns False, and writes nothing, if there is one."""
        lines = [_line(commit.to_action()), *(_line(action) for action in actions)]
        return self.entry(version).create_bytes(("\n".join(lines) + "\n").encode())

    def read(self, version: int) -> tuple[Commit, list[Action]]:
        """A commit and its actions, `commitInfo` left out.

        Raises StorageNotFoundError if there is no such entry, and TableError, which names the other
        program, if the commit is not xrec's.
        """
        info, *actions = self.actions(version)
        return self._own(version, info), actions

    def commit(self, version: int) -> Commit:
        """The commit of a version without its actions; raises as `read` does."""
        first, _, _ = self.entry(version).read_text().partition("\n")
        return self._own(version, json.loads(first))

    def actions(self, version: int) -> list[Action]:
        """All lines of an entry, whoever wrote it; raises StorageNotFoundError without one."""
        lines = self.entry(version).read_text().split("\n")  # strings may hold other ends of lines
        return [json.loads(line) for line in lines if line]

    def has(self, version: int) -> bool:
        """True if the log holds the entry of this version; raises if the store cannot tell."""
        try:
            self.entry(version).modified_at()  # `is_file` is False also if the store fails
        except StorageNotFoundError:
            return False
        return True

    def newest(self, known: int | None = None) -> int | None:
        """The newest version, or None if there is no table.

        From `known`, a version that there was, or from the newest checkpoint, the search goes on in
        doubling steps. So it takes few requests, and one if `known` is still the newest.
        """
        start = self.newest_checkpoint() if known is None else known
        if not self.has(start):
            versions = self.versions()  # there is no table, or this part of the log was deleted
            if not versions:
                return None
            start = versions[-1]
        step = 1
        while self.has(start + step):
            start, step = start + step, step * 2
        while step > 1:
            step //= 2
            if self.has(start + step):
                start += step
        return start

    def versions(self) -> list[int]:
        """The versions that the log holds, sorted, without a gap.

        An entry below a gap is left out: a driver that slept made it after the log had been cut.
        """
        found = sorted(_numbers(_ENTRY, (self.table / FOLDER).files()), reverse=True)
        return [version for place, version in enumerate(found) if version == found[0] - place][::-1]

    def checkpoints(self) -> list[int]:
        """The versions that have a checkpoint of one file, sorted."""
        return sorted(_numbers(_CHECKPOINT, (self.table / FOLDER).files()))

    def newest_checkpoint(self) -> int:
        """The version of the newest checkpoint, as its maker noted it; 0 without one."""
        try:
            hint = json.loads((self.table / FOLDER / "_last_checkpoint").read_text())
        except StorageNotFoundError:
            return 0
        return int(hint["version"])

    def delete_before(self, version: int) -> int:
        """Delete all files of older versions, oldest first; returns how many versions there were.

        The order matters: an entry is there as long as any older one is. So a driver that slept,
        and made an entry anew that had been deleted, finds that the entry before it is gone.
        """
        names = sorted((self.table / FOLDER).files())
        old = [name for name in names if any(_number < version for _number in _of_version(name))]
        for name in old:
            (self.table / FOLDER / name).delete()
        return len({number for name in old for number in _of_version(name)})

    def _own(self, version: int, first: Any) -> Commit:
        """The commit in an entry's first line; raises TableError if it is not xrec's."""
        info = first.get("commitInfo", {})
        if "xrec" not in info:
            raise TableError(
                f"{self.table}: version {version} was committed by another program "
                f"({info.get('engineInfo', 'unknown')}: {info.get('operation', 'unknown')}); xrec "
                f"extends only what its own drivers committed. Version {version - 1} may be read "
                "with version=; to go on, give another output URI"
            )
        try:
            return Commit.model_validate(info["xrec"])
        except ValidationError as error:
            raise TableError(
                f"{self.entry(version)}: not a commit that this xrec ({__version__}) reads: {error}"
            ) from error


def _line(action: Action) -> str:
    return json.dumps(action, ensure_ascii=False, separators=(",", ":"))


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> Iterator[int]:
    return (int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def _of_version(name: str) -> Iterator[int]:
    return _numbers(_OF_VERSION, [name])
