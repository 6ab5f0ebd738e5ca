"""The results of chunks: a chunk is done once its file exists, and no file is ever replaced.

A result contains a digest of its bytes and chunk number, and a digest of its summary; readers
verify both. A damaged result stays where it is, and its chunk is done once more under a second
name; if that result is damaged too, an error names it.
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

from xrec.bulk.rows import FAILED, OK, bare, counts_of
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

    num_ok: number of successful rows. failed: number of failed rows by reason. was_failed: in a
    retry, the earlier failures of its rows by reason. costs: totals by name; `seconds` is process
    time, `carried` the number of rows carried over from an earlier run. num_deaths: number of
    processes that died while working on the rows.
    """

    num_ok: int = 0
    failed: dict[str, int] = Field(default_factory=dict)
    was_failed: dict[str, int] = Field(default_factory=dict)
    costs: dict[str, float] = Field(default_factory=dict)
    num_deaths: int = 0

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    @property
    def num_rows(self) -> int:
        """The number of rows that succeeded or failed."""
        return self.num_ok + self.num_failed

    def __add__(self, other: "Summary") -> "Summary":
        """Add two summaries, counting a retried row once, with its last outcome."""
        retried = {reason: -count for reason, count in other.was_failed.items()}
        failed = added(added(self.failed, other.failed), retried)
        return Summary(
            num_ok=self.num_ok + other.num_ok,
            failed={reason: round(count) for reason, count in failed.items() if count},
            costs=added(self.costs, other.costs),
            num_deaths=self.num_deaths + other.num_deaths,
        )


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Add two mappings of numbers by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def total(summaries: Iterable[Summary]) -> Summary:
    return sum(summaries, Summary())


def summary_of(rows: pa.Table, **fields: Any) -> Summary:
    """Return the summary of a result's rows, with `fields` passed through."""
    failed = counts_of(rows.filter(pc.equal(rows["status"], FAILED))["reason"])
    num_ok = counts_of(rows["status"]).get(OK, 0)
    return Summary(num_ok=num_ok, failed=failed, **fields)


@dataclass(frozen=True)
class ResultFolder:
    """The results of a plan's chunks."""

    location: Location

    def sizes(self) -> dict[int, tuple[str, int]]:
        """Return the name and size of the result that counts for each chunk that has one."""
        results: dict[int, tuple[str, int]] = {}
        for name, size in sorted(self.location.sizes().items()):
            if match := _NAME.fullmatch(name):
                results[int(match[1])] = (name, size)  # 7~1.parquet sorts after 7.parquet
        return results

    def create(self, chunk: int, rows: pa.Table, summary: Summary) -> Summary:
        """Write a chunk's result unless it exists; return the summary of the valid result.

        Raise DataError if the chunk has two results and neither can be read.
        """
        data = _result_bytes(chunk, rows, summary)
        for name in _names(chunk):
            if (self.location / name).create_bytes(data):
                return summary
            if (existing := self._summary_of_all(name)) is not None:
                return existing
        raise self._lost(chunk)

    def standing(self, chunk: int) -> Summary | None:
        """Return the summary of the chunk's result, or None if it has no readable one yet.

        Raise DataError if the chunk has two results and neither can be read.
        """
        summary = None
        for name in _names(chunk):
            try:
                summary = self._summary_of_all(name)
            except StorageNotFoundError:
                return summary
        if summary is None:
            raise self._lost(chunk)
        return summary

    def summary(self, name: str) -> Summary | None:
        """Return the summary in a result's footer, or None if it cannot be read."""
        try:
            return _summary_in(read_footer(self.location / name), _chunk_of(name))
        except _UNREADABLE:
            return None

    def read(self, name: str, schema: pa.Schema) -> tuple[pa.Table, Summary]:
        """Return the rows and the summary of a result.

        Raise BrokenResultError if the result cannot be read, so that its chunk must be done once
        more, and DataError if it is the chunk's second result and cannot be read either.
        """
        data = (self.location / name).read_bytes()
        try:
            rows, summary = _parsed(data, _chunk_of(name))
            return rows.select(schema.names).cast(schema), summary
        except _UNREADABLE as error:
            if "~" in name:
                raise self._lost(_chunk_of(name)) from error
            (self.location / f"{name}{_DOUBTED}").create_bytes(b"")
            raise BrokenResultError(
                f"{self.location / name}: the result cannot be read ({error}); run the job again "
                "to redo its chunk",
                code="broken_result",
                key=name,
            ) from error

    def of_chunk(self, chunk: int, schema: pa.Schema) -> tuple[pa.Table, Summary]:
        """Return the rows and the summary of the chunk's valid result without listing the folder.

        Raise the errors of `read`, and StorageNotFoundError if the result was deleted.
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
                f"{self.location / first}: the result of a chunk was deleted; run the job again, "
                "and make sure that nothing deletes files there",
                code="lost_result",
                key=first,
                saw=chunk,
            ) from error

    def doubted(self) -> set[int]:
        """Return the chunks whose only result some reader was unable to read."""
        names = self.location.sizes()
        doubts = {name.removesuffix(_DOUBTED) for name in names if name.endswith(_DOUBTED)}
        chunks = {int(match[1]) for match in map(_NAME.fullmatch, doubts) if match and not match[2]}
        return {chunk for chunk in chunks if _names(chunk)[1] not in names}

    def _summary_of_all(self, name: str) -> Summary | None:
        """Return the summary if every byte of the result is valid, else None."""
        data = (self.location / name).read_bytes()
        try:
            return _parsed(data, _chunk_of(name))[1]
        except _UNREADABLE:
            return None

    def _lost(self, chunk: int) -> DataError:
        first, second = _names(chunk)
        return DataError(
            f"{self.location}: neither {first} nor {second} can be read, so the result of a chunk "
            "is lost; delete both, run the job again, and find out what changes files there",
            code="lost_result",
            key=first,
            saw=chunk,
        )


def _result_bytes(chunk: int, rows: pa.Table, summary: Summary) -> bytes:
    text = summary.model_dump_json().encode()
    digests = {_SUMMARY_DIGEST: _digest(chunk, text), _FILE_DIGEST: _MARK + _NO_DIGEST}
    sink = io.BytesIO()
    rows = bare(rows).replace_schema_metadata({_SUMMARY: text, **digests})
    pq.write_table(rows, sink, compression="zstd")
    before, after = _around_digest(sink.getvalue())
    return before + _digest(chunk, before, after) + after


def _parsed(data: bytes, chunk: int) -> tuple[pa.Table, Summary]:
    """Return the rows and the summary; raise one of `_UNREADABLE` if a byte was changed."""
    before, after = _around_digest(data)
    if data[len(before) : len(data) - len(after)] != _digest(chunk, before, after):
        raise ValueError("its bytes were changed")
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(), _summary_in(file.metadata, chunk)


def _summary_in(footer: pq.FileMetaData, chunk: int) -> Summary:
    text, digest = (footer.metadata[key] for key in (_SUMMARY, _SUMMARY_DIGEST))
    if digest != _digest(chunk, text):
        raise ValueError("its summary was changed")
    return Summary.model_validate_json(text)


def _around_digest(data: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before and after the digest, which is plain text in the footer."""
    start = data.rfind(_MARK) + len(_MARK)
    if start < len(_MARK):
        raise ValueError("it has no digest")
    return data[:start], data[start + len(_NO_DIGEST) :]


def _digest(chunk: int, *parts: bytes) -> bytes:
    return hashlib.sha256(b"".join((f"{chunk} ".encode(), *parts))).hexdigest().encode()


def _names(chunk: int) -> tuple[str, str]:
    return f"{chunk:07d}.parquet", f"{chunk:07d}~1.parquet"


def _chunk_of(name: str) -> int:
    return int(name.partition(".")[0].partition("~")[0])
