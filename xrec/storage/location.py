"""Locations: files and folders at URIs, on a disk (`local.py`) or on S3 (`s3.py`)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Self

import fsspec
import pyarrow.fs

from xrec.storage.requests import storage_errors

VERSION = "?versionId="
"""What stands between a file's name and the ID of one of its earlier versions."""


@dataclass(frozen=True)
class Location(ABC):
    """A file or folder at `uri`, which is absolute; `location / "name"` is one inside it.

    Every kind of location gives these guarantees, on which artifacts and bulk runs rely:

    - `write_bytes` is atomic: readers see all of the old content or all of the new content.
    - `create_bytes` creates a file once: of several concurrent writers, only one gets True.
    - `read_bytes` returns a single version of the file, even if it is being replaced.
    - Errors are subclasses of `StorageError`, and their messages name the URI.

    `path` is the path of the same file or folder in `fs` and `arrow_filesystem()`.
    """

    uri: str
    path: str
    fs: fsspec.AbstractFileSystem

    def __truediv__(self, name: str) -> Self:
        return replace(
            self, uri=f"{self.uri.rstrip('/')}/{name}", path=f"{self.path.rstrip('/')}/{name}"
        )

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Return the content of one version of the file; raise StorageNotFoundError if missing."""

    def read_range(self, start: int, num_bytes: int) -> bytes:
        """Return up to `num_bytes` bytes of the file, starting at byte `start`, in one request.

        `start` must be before the end of the file. For the last n bytes, `start` is -n and
        `num_bytes` is n. Raises StorageNotFoundError if there is no file.
        """
        with storage_errors(self.uri):
            return bytes(self.fs.cat_file(self.path, start=start, end=start + num_bytes or None))

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write the whole file atomically, replacing its content."""

    @abstractmethod
    def write_file(self, path: str) -> None:
        """Write the content of the local file `path` atomically, as `write_bytes` does."""

    def stamp(self) -> str:
        """Return the file's size and its ETag or modification time; changes with the content.

        Raises StorageNotFoundError if there is no file.
        """
        with storage_errors(self.uri):
            return _stamp_of(self.fs.info(self.path))

    def size(self) -> int | None:
        """Return the size of the file in bytes, or None if it does not exist."""
        with storage_errors(self.uri), suppress(FileNotFoundError):
            return int(self.fs.info(self.path)["size"])
        return None

    def digest(self) -> str:
        """Read the whole file and return the first 16 hex digits of its SHA-256."""
        with storage_errors(self.uri), self.fs.open(self.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]

    @abstractmethod
    def create_bytes(self, data: bytes) -> bool:
        """Write the file unless it exists; return whether it was written."""

    @abstractmethod
    def files(self) -> list[str]:
        """Return the sorted relative paths of all files below this folder; [] if there are none."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file directly in this folder, by name."""
        return {name: int(info["size"]) for name, info in self._listing().items()}

    def stamps(self) -> dict[str, str]:
        """Return the `stamp` of each file directly in this folder, by name."""
        return {name: _stamp_of(info) for name, info in self._listing().items()}

    @abstractmethod
    def _listing(self) -> Mapping[str, Mapping[str, Any]]:
        """Return `size`, and `ETag` or `mtime`, of each file directly in this folder, by name."""

    def folders(self) -> list[str]:
        """Return the sorted names of the folders directly in this folder."""
        with storage_errors(self.uri):
            try:
                infos = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
        names = (info["name"].rstrip("/") for info in infos if info["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def details(self) -> dict[str, dict[str, Any]]:
        """Return what `fs` reports for each file below this folder, or for this file, by path."""
        with storage_errors(self.uri):
            infos: dict[str, dict[str, Any]] = self.fs.find(self.path, detail=True)
        return infos

    @abstractmethod
    def delta_options(self) -> dict[str, str] | None:
        """Return the options for deltalake's own client for this store; None for a disk."""

    @abstractmethod
    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """Return the file system for pyarrow and Ray, to be used with `path`."""

    def read_text(self) -> str:
        """Return the file's content, decoded as UTF-8."""
        return self.read_bytes().decode("utf-8")

    def exists(self) -> bool:
        """Return whether this is a file, or a folder with files."""
        with storage_errors(self.uri):
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """Return whether this is a file."""
        with storage_errors(self.uri):
            return bool(self.fs.isfile(self.path))

    def delete(self) -> None:
        """Delete the file, or the folder and everything below it, if it exists."""
        with storage_errors(self.uri):
            if self.fs.exists(self.path):
                self.fs.rm(self.path, recursive=True)

    def kept_after_deletion(self) -> tuple[str, Self, Mapping[str, str] | None]:
        """Return what the store keeps of files below this folder that are replaced or deleted.

        First in words, then where they can be read, and by their names there until when they exist,
        or None if the store does not say.
        """
        return "nothing, apart from copies that you make", self, {}

    def delete_all_but(self, name: str) -> None:
        """Delete all files below this folder except `name`; empty folders may remain."""
        others = [(self / other).path for other in self.files() if other != name]
        with storage_errors(self.uri):
            if others:
                self.fs.rm(others)


def _stamp_of(info: Mapping[str, Any]) -> str:
    return f"{info['size']} {info.get('ETag') or info['mtime']}"
