"""A file or folder at a URI: the interface of local files (`local.py`) and S3 (`s3.py`)."""

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
    """A file or folder at `uri`; `location / "name"` is what lies below it.

    Every kind of location keeps these promises, which the artifacts and the backfill rest on:

    - `write_bytes` is atomic: a reader sees the whole old content or the whole new content, never a
      part.
    - `create_bytes` creates exactly once: of several writers at the same time, one gets True and
      the others get False.
    - `read_bytes` returns one version of the file, even if it is replaced meanwhile.
    - Errors come as the tree under `StorageError`, and their messages name the URI.

    `path` is what `fs` and `arrow_filesystem()` call the same place.
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

    @property
    @abstractmethod
    def shared_uri(self) -> str:
        """The URI by which a process with another working directory can open this location."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """The content of one version of the file; raises StorageNotFoundError if there is none."""

    def read_range(self, start: int, num_bytes: int) -> bytes:
        """`num_bytes` bytes of the file from byte `start` on; fewer if it ends before.

        It takes one request. `start` must lie before the file's end. For the last n bytes, `start`
        is -n and `num_bytes` n. Raises StorageNotFoundError if there is no file.
        """
        with storage_errors(self.uri):
            return bytes(self.fs.cat_file(self.path, start=start, end=start + num_bytes or None))

    @abstractmethod
    def write_bytes(self, data: bytes) -> None:
        """Write the whole file atomically, in place of what is there."""

    @abstractmethod
    def write_file(self, path: str) -> None:
        """Write the content of a file of this machine, as `write_bytes` does."""

    def stamp(self) -> str:
        """What changes with the file's content: its size, and its ETag or the time of its change.

        Raises StorageNotFoundError if there is no file.
        """
        with storage_errors(self.uri):
            return _stamp_of(self.fs.info(self.path))

    def size(self) -> int | None:
        """The bytes of the file; None if there is none."""
        with storage_errors(self.uri), suppress(FileNotFoundError):
            return int(self.fs.info(self.path)["size"])
        return None

    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the file's content, which is read for it."""
        with storage_errors(self.uri), self.fs.open(self.path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]

    @abstractmethod
    def create_bytes(self, data: bytes) -> bool:
        """Write the file if nothing is there; returns False, and writes nothing, if something
        is.
        """

    @abstractmethod
    def files(self) -> list[str]:
        """Paths of all files below this folder, relative to it, sorted; none without a folder."""

    def sizes(self) -> dict[str, int]:
        """The bytes of each file that lies in this folder itself, by name; none without one."""
        return {name: int(info["size"]) for name, info in self._listing().items()}

    def stamps(self) -> dict[str, str]:
        """The `stamp` of each file that lies in this folder itself, by name; none without one."""
        return {name: _stamp_of(info) for name, info in self._listing().items()}

    @abstractmethod
    def _listing(self) -> Mapping[str, Mapping[str, Any]]:
        """What the store says of each file in this folder itself: size, and ETag or mtime."""

    def folders(self) -> list[str]:
        """The names of the folders that lie in this folder itself, sorted; none without one."""
        with storage_errors(self.uri):
            try:
                found = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
        names = (each["name"].rstrip("/") for each in found if each["type"] == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def details(self) -> dict[str, dict[str, Any]]:
        """What `fs` says of each file below this folder, or of this file, by its path in `fs`."""
        with storage_errors(self.uri):
            found: dict[str, dict[str, Any]] = self.fs.find(self.path, detail=True)
        return found

    @abstractmethod
    def delta_options(self) -> dict[str, str] | None:
        """What deltalake's own client needs in order to use this store."""

    @abstractmethod
    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """The same file system for pyarrow and Ray, to be used with `path`."""

    def read_text(self) -> str:
        """The file's content as UTF-8."""
        return self.read_bytes().decode("utf-8")

    def exists(self) -> bool:
        """True if a file, or a folder with files, is there."""
        with storage_errors(self.uri):
            return bool(self.fs.exists(self.path))

    def is_file(self) -> bool:
        with storage_errors(self.uri):
            return bool(self.fs.isfile(self.path))

    def delete(self) -> None:
        """Delete the file, or the folder and all below it. Nothing happens if nothing is there."""
        with storage_errors(self.uri):
            if self.fs.exists(self.path):
                self.fs.rm(self.path, recursive=True)

    def delete_all_but(self, name: str) -> None:
        """Delete all files below this folder but one; empty folders may stay."""
        others = [(self / other).path for other in self.files() if other != name]
        with storage_errors(self.uri):
            if others:
                self.fs.rm(others)


def _stamp_of(info: Mapping[str, Any]) -> str:
    return f"{info['size']} {info.get('ETag') or info['mtime']}"


_traffic, _counting = Counter[str](), threading.Lock()


def count_traffic(**amounts: int) -> None:
    """Count what a location asked of its store: store_requests, bytes_read, bytes_written."""
    with _counting:
        _traffic.update(amounts)


def traffic(*, take: bool = True) -> dict[str, float]:
    """What this process counted since it was last taken.

    On S3 each attempt of a request counts, with the bytes of its body and of the answer's. On a
    disk only bytes do, of files that are read or written whole or by a range. What deltalake and
    Arrow do by themselves is not counted.
    """
    with _counting:
        found = {name: float(amount) for name, amount in _traffic.items() if amount}
        if take:
            _traffic.clear()
    return found


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn the errors of the file systems into those of xrec.errors, and name the URI."""
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
            f"{uri}: the endpoint does not answer ({error}); check AWS_ENDPOINT_URL or "
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
    """Yield `function(item)` for each item, in order, with so many calls at a time.

    `items` may be endless: only those in flight are held.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


WAITS_SECONDS = (1.0, 4.0, 16.0)  # before what a store failed to do is tried again


def with_backoff(do: Callable[[], T]) -> T:
    """What `do` returns; if the store fails, it is called again, after 1, 4 and 16 seconds.

    A refusal, or a file that is not there, is raised at once.
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
    logger.warning("the store is tried again in %g s: %s", state.upcoming_sleep, error)
