"""Requests to a store: counts, conversion to xrec's errors, concurrency and retries."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import botocore.exceptions
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain
from tenacity.nap import sleep
from tenacity.wait import wait_fixed

from xrec.errors import (
    StorageAccessError,
    StorageError,
    StorageNotFoundError,
    StorageUnreachableError,
    first_line_of,
)

logger = logging.getLogger("xrec")

T = TypeVar("T")
R = TypeVar("R")

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
_traffic, _counting = Counter[str](), threading.Lock()


def count_traffic(**amounts: int) -> None:
    """Add to the counts of this process: store_requests, bytes_read, bytes_written."""
    with _counting:
        _traffic.update(amounts)


def traffic(*, take: bool = True) -> dict[str, float]:
    """Return the counts of this process, and reset them unless `take` is false.

    On S3, every attempt of a request and the bytes of bodies in both directions count. On a disk,
    only the bytes of files that are read or written whole or by range count. Requests that
    deltalake and Arrow make themselves do not count.
    """
    with _counting:
        counts = {name: float(amount) for name, amount in _traffic.items() if amount}
        if take:
            _traffic.clear()
    return counts


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn file system errors into errors of xrec.errors that name the URI."""
    try:
        yield
    except _REFUSED as error:
        raise StorageAccessError(
            f"{uri}: access refused ({first_line_of(error)}); check the permissions of the path "
            "or, on S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the bucket's policy and "
            "storage.* in the config",
            code="access_refused",
            key=uri,
        ) from error
    except _MISSING as error:
        raise StorageNotFoundError(
            f"{uri}: not found ({first_line_of(error)}); check the path and, on S3, the bucket and "
            "storage.endpoint_url",
            code="not_found",
            key=uri,
        ) from error
    except _UNREACHABLE as error:
        raise StorageUnreachableError(
            f"{uri}: the endpoint does not respond ({first_line_of(error)}); check "
            "AWS_ENDPOINT_URL or storage.endpoint_url",
            code="no_answer",
            key=uri,
        ) from error
    except (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise StorageError(
            f"{uri}: {first_line_of(error)}", code="store_failed", key=uri
        ) from error


def request_each(
    function: Callable[[T], R], items: Iterable[T], *, at_once: int = 8
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, using `at_once` threads.

    `items` may be infinite: only the items in flight are kept in memory.
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
"""The waits before the retries of a call that failed because of the store."""


def with_backoff(do: Callable[[], T]) -> T:
    """Return `do()`; if the store fails, try again after 1, 4 and 16 seconds.

    Errors for refused access or a missing file are raised at once.
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
    logger.warning("retrying in %g s: %s", state.upcoming_sleep, error)
