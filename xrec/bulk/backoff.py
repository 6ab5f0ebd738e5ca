"""Tries again what a store failed to do."""

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain
from tenacity.nap import sleep
from tenacity.wait import wait_fixed

from xrec.errors import StorageAccessError, StorageError, StorageNotFoundError

logger = logging.getLogger("xrec")

T = TypeVar("T")

_WAITS_SECONDS = (1.0, 4.0, 16.0)  # before it is tried again


def with_backoff(do: Callable[[], T]) -> T:
    """What `do` returns; if the store fails, it is called again, after 1, 4 and 16 seconds.

    A refusal, or a file that is not there, is raised at once.
    """
    return Retrying(
        sleep=sleep,
        retry=retry_if_exception(_is_transient),
        wait=wait_chain(*map(wait_fixed, _WAITS_SECONDS)),
        stop=stop_after_attempt(len(_WAITS_SECONDS) + 1),
        before_sleep=_log,
        reraise=True,
    )(do)


def _is_transient(error: BaseException) -> bool:
    is_final = isinstance(error, StorageAccessError | StorageNotFoundError)
    return isinstance(error, StorageError) and not is_final


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.warning("the store is tried again in %g s: %s", state.upcoming_sleep, error)
