"""The folder of an export: whose it is, whether it is whole, and how one takes another's place.

The rules are in xrec.bulk.export.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.errors import ArtifactMismatchError, StorageNotFoundError
from xrec.storage import Location, differing_fields, fingerprint_of, request_each, storage_errors

logger = logging.getLogger("xrec")

RECORD = "_export.json"
SUCCESS = "_SUCCESS"
LAYOUT = 1
_UNFINISHED_AT_MOST = timedelta(days=1)
# A data file's name ends in the fingerprint of its export. A killed process leaves unfinished files
# on a local disk, whose names begin with a dot and end in a dot and a word.
_OF_EXPORT = re.compile(
    r"(?:[^/]+=[^/]*/)*\.?[A-Za-z0-9][\w.-]*-[0-9a-f]{16}\.(?:parquet|jsonl|csv)(?:\.\w+)?"
    rf"|\.(?:{RECORD}|{SUCCESS})\.\w+"
)


class ExportRecord(BaseModel):
    """What a folder is an export of; `_export.json` holds it.

    commit: the id of the commit that made the version; no other table has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: int = LAYOUT
    source: str
    run: str
    version: int
    commit: str
    format: Literal["parquet", "jsonl", "csv"]
    partition_by: tuple[str, ...]
    columns: tuple[str, ...] | None
    with_failed: bool

    @property
    def fingerprint(self) -> str:
        """The same for the same rows in the same form, wherever the table lies."""
        return fingerprint_of(self.model_dump(mode="json", exclude={"source"}))


class Success(BaseModel):
    """What `_SUCCESS` holds; `export` is the fingerprint of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    export: str
    version: int
    num_rows: int
    num_files: int


@dataclass(frozen=True)
class ExportFolder:
    """The folder at `location`, for the export that `record` describes."""

    location: Location
    record: ExportRecord

    def begin(self, overwrite: bool) -> Success | None:
        """Take the folder for this export, and delete the files of others.

        Returns what `_SUCCESS` says if the export is there and whole; nothing is changed then.

        Raises ArtifactMismatchError if there are files that are of no export, or another export and
        not `overwrite`.
        """
        sizes = self._sizes()
        there = self._read_record()
        self._refuse_other_files(sizes, there)
        if there is None:
            if not (self.location / RECORD).create_bytes(_as_json(self.record)):
                return self.begin(overwrite)  # another process was first
        elif there.fingerprint != self.record.fingerprint:
            if not overwrite:
                raise self._is_another(there)
            (self.location / RECORD).write_bytes(_as_json(self.record))
        elif (success := self.success()) is not None:
            return success
        (self.location / SUCCESS).delete()
        self._delete(
            [
                name
                for name in _data_files(sizes)
                if not self._is_ours(name) and not self._may_be_at_work(name)
            ]
        )
        return None

    def success(self) -> Success | None:
        """What `_SUCCESS` says if it is that of this export, and no file is missing."""
        success = self._success()
        if success is None or success.num_files == len(self.sizes()):
            return success
        logger.warning("%s: files of the export are missing", self.location)
        return None

    def sizes(self) -> dict[str, int]:
        """The whole data files that are there, with their sizes in bytes."""
        return _whole_files(self._sizes())

    def finish(self, files: Mapping[str, int], num_rows: int) -> Success:
        """Write `_SUCCESS` if the folder holds these files, of these sizes, and no others.

        Raises ArtifactMismatchError if it does not: another process changed it meanwhile.
        """
        success = Success(
            export=self.record.fingerprint,
            version=self.record.version,
            num_rows=num_rows,
            num_files=len(files),
        )
        self._check(files)
        (self.location / SUCCESS).write_bytes(_as_json(success))
        try:
            self._check(files)  # another export may have begun between check and write
        except ArtifactMismatchError:
            if self._success() == success:
                (self.location / SUCCESS).delete()
            raise
        return success

    def check_ours(self) -> None:
        """Delete what this export wrote and raise ArtifactMismatchError if another one began."""
        there = self._read_record()
        if there is not None and there.fingerprint == self.record.fingerprint:
            return
        self._delete([name for name in self.sizes() if self._is_ours(name)])
        what = (
            "its record is gone" if there is None else f"version {there.version} as {there.format}"
        )
        raise ArtifactMismatchError(
            f"{self.location}: another export was begun there meanwhile ({what}); this one is "
            "given up; give each a folder of its own"
        )

    def _check(self, files: Mapping[str, int]) -> None:
        self.check_ours()
        wrong = sorted({name for name, _ in files.items() ^ self.sizes().items()})
        if wrong:
            raise ArtifactMismatchError(
                f"{self.location}: {len(wrong)} files were added, changed or deleted meanwhile, "
                f"such as {wrong[0]}; make the export again, and let nothing else write there"
            )

    def _may_be_at_work(self, name: str) -> bool:
        """Whether it is an unfinished file of this very export, not old: another process writes."""
        if not (_is_unfinished(name) and self._has_our_name(name)):
            return False
        try:
            written = (self.location / name).modified_at()
        except StorageNotFoundError:  # finished meanwhile
            return True
        return datetime.now(UTC) - written < _UNFINISHED_AT_MOST

    def _is_ours(self, name: str) -> bool:
        return not _is_unfinished(name) and self._has_our_name(name)

    def _has_our_name(self, name: str) -> bool:
        return f"-{self.record.fingerprint}." in name

    def _delete(self, names: Sequence[str]) -> None:
        for _ in request_each(lambda name: (self.location / name).delete(), names):
            pass

    def _refuse_other_files(self, sizes: Mapping[str, int], there: ExportRecord | None) -> None:
        others = [
            name for name in sizes if name not in (RECORD, SUCCESS) and not _is_of_export(name)
        ]
        if there is None:
            others = [name for name in sizes if not _is_unfinished(name)]
        if others:
            raise ArtifactMismatchError(
                f"{self.location}: holds files that are of no export, such as {others[0]}; nothing "
                "was changed; give an empty folder, or delete them yourself"
            )

    def _is_another(self, there: ExportRecord) -> ArtifactMismatchError:
        fields = differing_fields(
            there.model_dump(mode="json"), self.record.model_dump(mode="json")
        )
        return ArtifactMismatchError(
            f"{self.location}: holds another export:\n"
            + "\n".join(f"  {line}" for line in fields)
            + "\ngive another folder, or have it replaced (overwrite)"
        )

    def _read_record(self) -> ExportRecord | None:
        try:
            data = (self.location / RECORD).read_bytes()
        except StorageNotFoundError:
            return None
        try:
            return ExportRecord.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactMismatchError(
                f"{self.location / RECORD}: not a record that this xrec reads: {error}; give "
                "another folder, or delete this one"
            ) from error

    def _success(self) -> Success | None:
        """What `_SUCCESS` says if it is that of this export."""
        try:
            success = Success.model_validate_json((self.location / SUCCESS).read_bytes())
        except (StorageNotFoundError, ValidationError):
            return None
        return success if success.export == self.record.fingerprint else None

    def _sizes(self) -> dict[str, int]:
        root = f"{self.location.path.rstrip('/')}/"
        with storage_errors(self.location.uri):
            found = self.location.fs.find(self.location.path, detail=True)
        return {
            str(path).removeprefix(root): int(info["size"])
            for path, info in sorted(found.items())
            if str(path).startswith(root)
        }


def _as_json(model: BaseModel) -> bytes:
    return f"{model.model_dump_json(indent=2)}\n".encode()


def _data_files(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if name not in (RECORD, SUCCESS)}


def _whole_files(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in _data_files(sizes).items() if not _is_unfinished(name)}


def _is_of_export(name: str) -> bool:
    return _OF_EXPORT.fullmatch(name) is not None


def _is_unfinished(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".") and _is_of_export(name)
