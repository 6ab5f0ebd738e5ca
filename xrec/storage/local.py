"""Locations on a local disk; see `Location` for what each method promises.

Content first goes to a temporary file, which is then renamed (to write a file) or hard-linked (to
create one).
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from xrec.storage.location import Location
from xrec.storage.requests import count_traffic, storage_errors


@dataclass(frozen=True)
class LocalLocation(Location):
    """A file or folder on this machine; `path` is absolute."""

    fs: fsspec.AbstractFileSystem = field(default_factory=LocalFileSystem)

    def read_bytes(self) -> bytes:
        with storage_errors(self.uri):
            return _counted(Path(self.path).read_bytes())

    def read_range(self, start: int, num_bytes: int) -> bytes:
        return _counted(super().read_range(start, num_bytes))

    def write_bytes(self, data: bytes) -> None:
        self._write(io.BytesIO(data))

    def write_file(self, path: str) -> None:
        with storage_errors(self.uri), open(path, "rb") as source:
            self._write(source)

    def _write(self, content: IO[bytes]) -> None:
        with storage_errors(self.uri), _finished_file_beside(self.path, content) as temporary:
            os.replace(temporary, self.path)

    def create_bytes(self, data: bytes) -> bool:
        content = io.BytesIO(data)
        with storage_errors(self.uri), _finished_file_beside(self.path, content) as temporary:
            try:
                os.link(temporary, self.path)
            except OSError as error:
                # On NFS the response to a successful link may be lost; when the client tries again,
                # the server responds that the name exists.
                if os.stat(temporary).st_nlink != 2:
                    if isinstance(error, FileExistsError):
                        return False
                    raise
            _flush_folder(os.path.dirname(self.path))
        return True

    def files(self) -> list[str]:
        """See Location; raises StorageAccessError if reading a folder is not permitted."""
        with storage_errors(self.uri):
            paths = [
                os.path.relpath(os.path.join(folder, name), self.path)
                for folder, _, names in os.walk(self.path, onerror=_unless_missing)
                for name in names
            ]
        return sorted(paths)

    def _listing(self) -> Mapping[str, Mapping[str, Any]]:
        with storage_errors(self.uri):
            listing = {}
            with suppress(FileNotFoundError), os.scandir(self.path) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # deleted by someone else
                        if entry.is_file():
                            info = entry.stat()
                            listing[entry.name] = {"size": info.st_size, "mtime": info.st_mtime}
            return listing

    def delta_options(self) -> dict[str, str] | None:
        return None

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        return pyarrow.fs.LocalFileSystem()


def _counted(data: bytes) -> bytes:
    count_traffic(bytes_read=len(data))
    return data


def _unless_missing(error: OSError) -> None:
    """Treat a folder that does not exist, or was just deleted, as empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _flush_folder(folder: str) -> None:
    """Flush the folder to disk, so that its file names survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _finished_file_beside(target: str, content: IO[bytes]) -> Iterator[str]:
    """Yield the path of a finished temporary file in the target's folder; delete it on exit."""
    folder, name = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
            count_traffic(bytes_written=file.tell())
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)
