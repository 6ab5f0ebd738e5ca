"""Locations: files and folders at URIs, on a disk (`local.py`) or on S3 (`s3.py`)."""

import hashlib
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

import botocore.exceptions
import fsspec
import pyarrow.fs
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain
from tenacity.nap import sleep
from tenacity.wait import wait_fixed

from xrec.errors import (
    StorageAccessError,
    StorageError,
    StorageNotFoundError,
    StorageUnreachableError,
)

logger = logging.getLogger("xrec")

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
class Location(ABC):
    """A file or folder at `uri`; `location / "name"` is one below it.

    Artifacts and bulk runs rely on these promises, which every kind of location keeps:

    - `write_bytes` is atomic: readers see all of the old content or all of the new content.
    - `create_bytes` creates once: of several concurrent writers, one gets True, the others False.
    - `read_bytes` returns a single version of the file, even if it is being replaced.
    - Errors are of the tree under `StorageError`, and their messages name the URI.

    `path` is the name of the same file or folder in `fs` and `arrow_filesystem()`.
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
        """Return the last part of the path."""
        return PurePosixPath(self.path).name

    @property
    @abstractmethod
    def shared_uri(self) -> str:
        """Return a URI that also works in a process with another working directory."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Return the content of one version of the file; raise StorageNotFoundError."""

    def read_range(self, start: int, num_bytes: int) -> bytes:
        """Return up to `num_bytes` bytes of the file from byte `start` on, with one request.

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
        """Write the content of a local file, as `write_bytes` does."""

    def stamp(self) -> str:
        """Return the file's size with its ETag or modification time; it changes with the content.

        Raises StorageNotFoundError if there is no file.
        """
        with storage_errors(self.uri):
            return _stamp_of(self.fs.info(self.path))

    def size(self) -> int | None:
        """Return the size of the file in bytes; None if there is none."""
        with storage_errors(self.uri), suppress(FileNotFoundError):
            return int(self.fs.info(self.path)["size"])
        return None

    def digest(self) -> str:
        """Return 16 hex digits of the SHA-256 of the file's content, which is read."""
        with storage_errors(self.uri), self.fs.open(self.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]

    @abstractmethod
    def create_bytes(self, data: bytes) -> bool:
        """Write the file unless it exists; return whether it was written."""

    @abstractmethod
    def files(self) -> list[str]:
        """Return the sorted relative paths of all files below this folder; [] if there is none."""

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
        """Return what `fs` reports of each file below this folder, or of this file, by its path."""
        with storage_errors(self.uri):
            infos: dict[str, dict[str, Any]] = self.fs.find(self.path, detail=True)
        return infos

    @abstractmethod
    def delta_options(self) -> dict[str, str] | None:
        """Return the options for deltalake's own client of this store; None for a disk."""

    @abstractmethod
    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """Return the file system for pyarrow and Ray, to be used with `path`."""

    def read_text(self) -> str:
        """Return the file's content, decoded as UTF-8."""
        return self.read_bytes().decode("utf-8")

    def exists(self) -> bool:
        """Return whether it is a file, or a folder that has files."""
        with storage_errors(self.uri):
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        """Return whether it is a file."""
        with storage_errors(self.uri):
            return bool(self.fs.isfile(self.path))

    def delete(self) -> None:
        """Delete the file, or the folder and everything below it, if it exists."""
        with storage_errors(self.uri):
            if self.fs.exists(self.path):
                self.fs.rm(self.path, recursive=True)

    def delete_all_but(self, name: str) -> None:
        """Delete all files below this folder except one; empty folders may stay."""
        others = [(self / other).path for other in self.files() if other != name]
        with storage_errors(self.uri):
            if others:
                self.fs.rm(others)


def _stamp_of(info: Mapping[str, Any]) -> str:
    return f"{info['size']} {info.get('ETag') or info['mtime']}"


_traffic, _counting = Counter[str](), threading.Lock()


def count_traffic(**amounts: int) -> None:
    """Add to the counts of this process: store_requests, bytes_read, bytes_written."""
    with _counting:
        _traffic.update(amounts)


def traffic(*, take: bool = True) -> dict[str, float]:
    """Return the counts of this process, and reset them unless `take` is false.

    On S3, each attempt of a request counts, and the bytes of bodies both ways. On a disk, only the
    bytes of files that are read or written whole or by ranges count. What deltalake and Arrow do by
    themselves is not counted.
    """
    with _counting:
        counts = {name: float(amount) for name, amount in _traffic.items() if amount}
        if take:
            _traffic.clear()
    return counts


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn errors of the file systems into those of xrec.errors, which name the URI."""
    try:
        yield
    except _REFUSED as error:
        raise StorageAccessError(
            f"{uri}: access refused ({error}); check the permissions of the path or, on S3, "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the bucket's policy and storage.* in the "
            "config",
            code="access_refused",
            key=uri,
        ) from error
    except _MISSING as error:
        raise StorageNotFoundError(
            f"{uri}: not found ({error}); check the path and, on S3, the bucket and "
            "storage.endpoint_url",
            code="not_found",
            key=uri,
        ) from error
    except _UNREACHABLE as error:
        raise StorageUnreachableError(
            f"{uri}: the endpoint does not respond ({error}); check AWS_ENDPOINT_URL or "
            "storage.endpoint_url",
            code="no_answer",
            key=uri,
        ) from error
    except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise StorageError(f"{uri}: {error}", code="store_failed", key=uri) from error


T = TypeVar("T")
R = TypeVar("R")


def request_each(
    function: Callable[[T], R], items: Iterable[T], *, at_once: int = 8
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, from `at_once` threads.

    `items` may be endless: only the items in flight are held.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


WAITS_SECONDS = (1.0, 4.0, 16.0)
"""The waits before a call that failed because of the store is tried again."""


def with_backoff(do: Callable[[], T]) -> T:
    """Return `do()`; if the store fails, try again after 1, 4 and 16 seconds.

    A refused access or a missing file is raised at once.
    """
    return Retrying(
        sleep=sleep,
        retry=retry_if_exception(_is_transient),
        wait=wait_chain(*map(wait_fixed, WAITS_SECONDS)),
        stop=stop_after_attempt(len(WAITS_SECONDS) + 1),
        before_sleep=_log,
        reraise=True,
    )(do)


def _is_transient(error: BaseException) -> bool:
    is_final = isinstance(error, StorageAccessError | StorageNotFoundError)
    return isinstance(error, StorageError) and not is_final


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("trying the store again in %g s: %s", state.upcoming_sleep, error)
