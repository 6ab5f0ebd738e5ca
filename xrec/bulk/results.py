"""The results of chunks: a chunk is done once its file exists, and no file is ever replaced.

A result contains a digest of its bytes and chunk number, and a digest of its summary; readers
verify both. A damaged result stays where it is, and its chunk is done once more under a second
name; if that result is damaged too, an error names it.
"""

import hashlib
import io
import re
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.bulk.rows import Summary, bare
from xrec.errors import DataError, StorageNotFoundError
from xrec.storage import Location, read_footer

_NAME = re.compile(r"(\d+)(~1)?\.parquet")
_SUMMARY, _SUMMARY_DIGEST, _FILE_DIGEST = b"xrec", b"xrec_summary_digest", b"xrec_digest"
_MARK, _NO_DIGEST = b"sha256-of-the-rest:", b"0" * 64
_DOUBTED = ".unreadable"
_UNREADABLE = (pa.ArrowException, KeyError, ValueError, TypeError, OSError)


class BrokenResultError(DataError):
    """A result that cannot be read."""


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
            if (existing := self._load(name)) is not None:
                return existing[1]
        raise self._lost(chunk)

    def find(self, chunk: int) -> tuple[pa.Table, Summary] | None:
        """Return the rows and the summary of the chunk's result, or None if it has no readable one.

        Raise DataError if the chunk has two results and neither can be read.
        """
        num_broken = 0
        for name in _names(chunk):
            with suppress(StorageNotFoundError):
                if (found := self._load(name)) is not None:
                    return found
                num_broken += 1
        if num_broken == len(_names(chunk)):
            raise self._lost(chunk)
        return None

    def read(self, chunk: int, schema: pa.Schema) -> tuple[pa.Table, Summary]:
        """Return the rows, with the columns of `schema`, and the summary of the chunk's result.

        Raise BrokenResultError if the result cannot be read, so that its chunk must be done once
        more, and StorageNotFoundError if it was deleted.
        """
        if (found := self.find(chunk)) is not None:
            return found[0].select(schema.names).cast(schema), found[1]
        name, _ = _names(chunk)
        if not (self.location / name).is_file():
            raise StorageNotFoundError(
                f"{self.location / name}: the result of a chunk was deleted; run the job again, "
                "and make sure that nothing deletes files there",
                code="lost_result",
                key=name,
                saw=chunk,
            )
        (self.location / f"{name}{_DOUBTED}").create_bytes(b"")
        raise BrokenResultError(
            f"{self.location / name}: the result cannot be read; run the job again to redo its "
            "chunk",
            code="broken_result",
            key=name,
        )

    def summary(self, name: str) -> Summary | None:
        """Return the summary in a result's footer, or None if it cannot be read."""
        try:
            return _summary_in(read_footer(self.location / name), _chunk_of(name))
        except _UNREADABLE:
            return None

    def doubted(self) -> set[int]:
        """Return the chunks whose only result some reader was unable to read."""
        names = self.location.sizes()
        doubts = {_chunk_of(name) for name in names if name.endswith(_DOUBTED)}
        return {chunk for chunk in doubts if _names(chunk)[1] not in names}

    def _load(self, name: str) -> tuple[pa.Table, Summary] | None:
        """Return the rows and the summary of a result, or None if a byte of it was changed."""
        data = (self.location / name).read_bytes()
        try:
            return _parsed(data, _chunk_of(name))
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
