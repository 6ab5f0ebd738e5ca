"""A URI with the way to it: one small class over a local folder or an S3 bucket (fsspec, s3fs).

Two guarantees that the artifacts and the backfill stand on: `write_bytes` is atomic (a reader sees the old or the
new content), and `create_bytes` succeeds for exactly one of several writers (S3: If-None-Match: *; local: link(2)).
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import botocore.exceptions
import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from xrec.config.shared import StorageConfig
from xrec.errors import (
    StorageAccessError,
    StorageError,
    StorageNotFoundError,
    StorageUnreachableError,
)
from xrec.storage.s3 import open_s3, probe_bucket

_UNREACHABLE = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ConnectionClosedError,
    botocore.exceptions.ProxyConnectionError,
    ConnectionError,
    TimeoutError,
)
_REFUSED = (
    PermissionError,
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
)
_MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class Location:
    """A file or folder at `uri`; `location / "name"` is what lies below it."""

    uri: str
    path: str
    fs: fsspec.AbstractFileSystem

    def __truediv__(self, name: str) -> "Location":
        return Location(
            f"{self.uri.rstrip('/')}/{name}", f"{self.path.rstrip('/')}/{name}", self.fs
        )

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def is_local(self) -> bool:
        """True on this machine's own file system."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def shared_uri(self) -> str:
        """The URI as another process can open it: of a local path the absolute one, since Ray's workers have working directories of their own."""
        return self.path if self.is_local else self.uri

    def at(self, name: str) -> "Location":
        """What `name` stands for here: something below, or, as an absolute path or URI, something else on the same file system."""
        if name.startswith("s3://"):
            return Location(name, name.removeprefix("s3://"), self.fs)
        return Location(name, name, self.fs) if name.startswith("/") else self / name

    def exists(self) -> bool:
        """True if a file or a folder with files is there."""
        with storage_errors(self.uri):
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """True if a file is there."""
        with storage_errors(self.uri):
            return bool(self.fs.isfile(self.path))

    def read_bytes(self) -> bytes:
        """The file's content, of one version of it; raises StorageNotFoundError."""
        with storage_errors(self.uri):
            # s3fs asks for the size first and reads a large file in parts, maybe of two versions, unless told to send one request.
            return bytes(
                self.fs.cat_file(self.path)
                if self.is_local
                else self.fs.cat_file(self.path, max_concurrency=1)
            )

    def read_text(self) -> str:
        """The file's content as UTF-8."""
        return self.read_bytes().decode("utf-8")

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, replacing what is there, atomically."""
        with storage_errors(self.uri):
            if self.is_local:
                with _local_temporary(Path(self.path), data) as temporary:
                    os.replace(temporary, self.path)
            else:
                self.fs.pipe_file(self.path, data)

    def create_bytes(self, data: bytes) -> bool:
        """Write the file if nothing is there; False, and nothing written, if another writer was first."""
        with storage_errors(self.uri):
            return (
                _create_local(Path(self.path), data)
                if self.is_local
                else _create_s3(self.fs, self.path, data)
            )

    def files(self) -> list[str]:
        """Paths of all files below this folder, relative to it, sorted; empty if there is no folder."""
        with storage_errors(self.uri):
            root = self.path.rstrip("/") + "/"
            return sorted(
                path.removeprefix(root) for path in self.fs.find(self.path) if path.startswith(root)
            )

    def modified_at(self) -> datetime:
        """When the file was last written, by the clock of its store; raises StorageNotFoundError."""
        with storage_errors(self.uri):
            moment: datetime = self.fs.modified(self.path)
            return moment

    def delete(self) -> None:
        """Delete the file, or the folder with all below it; nothing happens if nothing is there."""
        with storage_errors(self.uri):
            if self.fs.exists(self.path):
                self.fs.rm(self.path, recursive=True)

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """The same file system for pyarrow and Ray; use it with `self.path`."""
        return (
            pyarrow.fs.LocalFileSystem()
            if self.is_local
            else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.fs))
        )


def open_location(uri: str, storage: StorageConfig | None = None) -> Location:
    """The location of a local path, `file://` URI or `s3://bucket/prefix`; nothing is contacted yet.

    Raises StorageError for another scheme or an s3:// URI without a bucket.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        path = os.path.abspath(os.path.expanduser(rest if separator else uri))
        return Location(uri, path, LocalFileSystem())
    if scheme != "s3":
        raise StorageError(
            f"URI {uri!r}: scheme {scheme!r} is not supported; give a local path or s3://bucket/prefix"
        )
    if not rest.split("/", 1)[0]:
        raise StorageError(f"URI {uri!r} names no bucket; expected s3://bucket/prefix")
    return Location(uri, rest.rstrip("/"), open_s3(storage or StorageConfig()))


def check_access(location: Location, storage: StorageConfig) -> None:
    """Find out at once, with one request and no retries, whether `location` can be used.

    Raises StorageAccessError (credentials refused), StorageNotFoundError (no such bucket), StorageUnreachableError.
    """
    if not location.is_local:
        bucket = location.path.split("/", 1)[0]
        with storage_errors(location.uri):
            probe_bucket(bucket, storage)


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn the file systems' many errors into the tree of xrec.errors, naming the URI."""
    try:
        yield
    except _REFUSED as error:
        raise StorageAccessError(
            f"{uri}: access refused ({error}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy, or storage.* in the config"
        ) from error
    except _MISSING as error:
        raise StorageNotFoundError(
            f"{uri}: not found ({error}); check the bucket and the path, and storage.endpoint_url"
        ) from error
    except _UNREACHABLE as error:
        raise StorageUnreachableError(
            f"{uri}: the endpoint does not answer ({error}); check AWS_ENDPOINT_URL or storage.endpoint_url"
        ) from error
    except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise StorageError(f"{uri}: {error}") from error


@contextmanager
def _local_temporary(target: Path, data: bytes) -> Iterator[str]:
    """A finished file beside `target`, to be renamed or linked to it; gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _create_local(target: Path, data: bytes) -> bool:
    with _local_temporary(target, data) as temporary:
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    return True


def _create_s3(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # s3fs reports a failed precondition (412) as a plain OSError with EINVAL, or as EBUSY for a race (409).
        if error.errno in (errno.EINVAL, errno.EBUSY) and fs.exists(path):
            return False
        raise
    return True
