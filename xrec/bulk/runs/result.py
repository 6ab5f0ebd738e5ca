"""Result files: a chunk is done if its file is there, and the file is created once.

Each file has a digest of all its bytes and its chunk's number, and one of its summary alone, which
readers recompute. A result that is damaged or cannot be read stays where it is. Its chunk is done
once more, under a second name, and then an error names it.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from xrec.bulk.runs.row_format import FAILED, OK
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import Location, Record, read_footer

_NAME = re.compile(r"(\d+)(~1)?\.parquet")
_SUMMARY, _SUMMARY_DIGEST, _FILE_DIGEST = b"xrec", b"xrec_summary_digest", b"xrec_digest"
_MARK, _NO_DIGEST = b"sha256-of-the-rest:", b"0" * 64
_DOUBTED = ".unreadable"
_UNREADABLE = (pa.ArrowException, KeyError, ValueError, TypeError, OSError)


class BrokenResultError(DataError):
    """A result that cannot be read."""


class Summary(Record):
    """Counts and costs of some rows.

    num_ok: rows that succeeded; num_ok_rows: the rows of the table that they became
    (`RowFormat.ok_keys`). failed: rows that failed, by reason; was_failed: of a retry, how its rows
    had failed before. costs: sums by name; `seconds` is the time of processes, `carried` the number
    of rows that an earlier run wrote. num_deaths: processes that died with the rows.
    """

    num_ok: int = 0
    num_ok_rows: int = 0
    failed: dict[str, int] = Field(default_factory=dict)
    was_failed: dict[str, int] = Field(default_factory=dict)
    costs: dict[str, float] = Field(default_factory=dict)
    num_deaths: int = 0

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def num_rows(self) -> int:
        """How many rows of the plan these are."""
        return self.num_ok + self.num_failed

    def __add__(self, other: "Summary") -> "Summary":
        """Both together: rows that were done again count once, by what became of them last."""
        mended = {reason: -count for reason, count in other.was_failed.items()}
        failed = added(added(self.failed, other.failed), mended)
        return Summary(
            num_ok=self.num_ok + other.num_ok,
            num_ok_rows=self.num_ok_rows + other.num_ok_rows,
            failed={reason: round(count) for reason, count in failed.items() if count},
            costs=added(self.costs, other.costs),
            num_deaths=self.num_deaths + other.num_deaths,
        )


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def total(summaries: Iterable[Summary]) -> Summary:
    return sum(summaries, Summary())


@dataclass(frozen=True)
class ResultFolder:
    """The results of a plan's chunks."""

    location: Location

    def sizes(self) -> dict[int, tuple[str, int]]:
        """Of each chunk that has a result, the name and the bytes of the file that stands."""
        found: dict[int, tuple[str, int]] = {}
        for name, size in sorted(self.location.sizes().items()):
            if (match := _NAME.fullmatch(name)) is not None:
                found[int(match[1])] = (name, size)  # 7~1.parquet comes after 7.parquet
        return found

    def create(self, chunk: int, rows: pa.Table, summary: Summary) -> Summary:
        """Write a chunk's result unless it has one; returns the summary of the one that stands.

        Raises DataError if the chunk has two results and neither can be read.
        """
        data = _result_bytes(chunk, rows, summary)
        for name in _names(chunk):
            if (self.location / name).create_bytes(data):
                return summary
            if (standing := self._readable(name)) is not None:
                return standing
        raise self._broken(chunk)

    def standing(self, chunk: int) -> Summary | None:
        """The summary of the chunk's result; None if it has none, or none that can be read.

        Raises DataError if the chunk has two results and the second cannot be read.
        """
        found = None
        for name in _names(chunk):
            try:
                found = self._readable(name)
            except StorageNotFoundError:
                return found
        if found is None:
            raise self._broken(chunk)
        return found

    def summary(self, name: str) -> Summary | None:
        """What the footer of a result says; None if it cannot be read."""
        try:
            return _summary_in(read_footer(self.location / name), _chunk_of(name))
        except _UNREADABLE:
            return None

    def read(self, name: str, schema: pa.Schema) -> tuple[pa.Table, Summary]:
        """The rows of a result, and its summary.

        Raises BrokenResultError if it cannot be read; its chunk is then to be done once more, or
        DataError if it is the second one.
        """
        data = (self.location / name).read_bytes()
        try:
            rows, summary = _parsed(data, _chunk_of(name))
            return rows.select(schema.names).cast(schema), summary
        except _UNREADABLE as error:
            if "~" in name:
                raise self._broken(_chunk_of(name)) from error
            (self.location / f"{name}{_DOUBTED}").create_bytes(b"")
            raise BrokenResultError(
                f"{self.location / name}: a result cannot be read ({error}); its chunk is to be "
                "done once more: run the job again",
                code="broken_result",
                key=name,
            ) from error

    def of_chunk(self, chunk: int, schema: pa.Schema) -> tuple[pa.Table, Summary]:
        """The rows of the result that stands, and its summary; no listing is needed.

        Raises what `read` raises, and StorageNotFoundError if there is no result: someone deleted
        it.
        """
        first, second = _names(chunk)
        try:
            return self.read(first, schema)
        except (BrokenResultError, StorageNotFoundError) as error:
            with suppress(StorageNotFoundError):
                return self.read(second, schema)
            if isinstance(error, BrokenResultError):
                raise
            raise StorageNotFoundError(
                f"{self.location / first}: the result of a chunk is gone; run the job again, and "
                "let nothing delete files there",
                code="lost_result",
                key=first,
                saw=chunk,
            ) from error

    def doubted(self) -> set[int]:
        """The chunks whose only result could not be read by someone."""
        names = self.location.sizes()
        doubts = {name.removesuffix(_DOUBTED) for name in names if name.endswith(_DOUBTED)}
        chunks = {int(match[1]) for match in map(_NAME.fullmatch, doubts) if match and not match[2]}
        return {chunk for chunk in chunks if _names(chunk)[1] not in names}

    def _readable(self, name: str) -> Summary | None:
        data = (self.location / name).read_bytes()
        try:
            return _parsed(data, _chunk_of(name))[1]
        except _UNREADABLE:
            return None

    def _broken(self, chunk: int) -> DataError:
        first, second = _names(chunk)
        return DataError(
            f"{self.location}: neither {first} nor {second} can be read, so the result of a chunk "
            "is lost; delete both and run the job again, and find out what changes files there",
            code="lost_result",
            key=first,
            saw=chunk,
        )


def _result_bytes(chunk: int, rows: pa.Table, summary: Summary) -> bytes:
    text = summary.model_dump_json().encode()
    said = {
        _SUMMARY: text,
        _SUMMARY_DIGEST: _digest(chunk, text),
        _FILE_DIGEST: _MARK + _NO_DIGEST,
    }
    sink = io.BytesIO()
    pq.write_table(bare(rows).replace_schema_metadata(said), sink, compression="zstd")
    before, after = _around_digest(sink.getvalue())
    return before + _digest(chunk, before, after) + after


def _parsed(data: bytes, chunk: int) -> tuple[pa.Table, Summary]:
    """Return the rows and the summary; raises one of `_UNREADABLE` if a byte was changed."""
    before, after = _around_digest(data)
    if data[len(before) : len(data) - len(after)] != _digest(chunk, before, after):
        raise ValueError("its bytes are not those that were written")
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(), _summary_in(file.metadata, chunk)


def _summary_in(footer: pq.FileMetaData, chunk: int) -> Summary:
    text, digest = (footer.metadata[key] for key in (_SUMMARY, _SUMMARY_DIGEST))
    if digest != _digest(chunk, text):
        raise ValueError("its summary is not the one that was written")
    return Summary.model_validate_json(text)


def _around_digest(data: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before and after a result's digest, which its footer has in plain text."""
    start = data.rfind(_MARK) + len(_MARK)
    if start < len(_MARK):
        raise ValueError("it has no digest")
    return data[:start], data[start + len(_NO_DIGEST) :]


def _digest(chunk: int, *parts: bytes) -> bytes:
    whole = hashlib.sha256(f"{chunk} ".encode())
    for part in parts:
        whole.update(part)
    return whole.hexdigest().encode()


def summary_of(rows: pa.Table, keys: list[str], **more: Any) -> Summary:
    """The counts of a result's rows; `more` are further fields."""
    ok = rows.filter(pc.equal(rows["status"], OK))
    failed = rows.filter(pc.equal(rows["status"], FAILED))["reason"]
    counts = {row["values"]: row["counts"] for row in pc.value_counts(failed).to_pylist()}
    num_ok = ok.select(keys).group_by(keys).aggregate([]).num_rows
    return Summary(num_ok=num_ok, num_ok_rows=ok.num_rows, failed=counts, **more)


def _names(chunk: int) -> tuple[str, str]:
    return f"{chunk:07d}.parquet", f"{chunk:07d}~1.parquet"


def _chunk_of(name: str) -> int:
    return int(name.partition(".")[0].partition("~")[0])


def bare(rows: pa.Table) -> pa.Table:
    """Without the columns' comments, which stand in the table's log once."""
    schema = pa.schema([field.remove_metadata() for field in rows.schema])
    return pa.table(rows.columns, schema=schema)
