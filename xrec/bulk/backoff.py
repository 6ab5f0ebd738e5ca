"""Tries again what a store failed to do."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from xrec.errors import StorageAccessError, StorageError, StorageNotFoundError

logger = logging.getLogger("xrec")

T = TypeVar("T")

_WAITS_SECONDS = (1.0, 4.0, 16.0)  # before it is tried again


def with_backoff(do: Callable[[], T]) -> T:
    """What `do` returns; if the store fails, it is called again, after 1, 4 and 16 seconds.

    A refusal, or a file that is not there, is raised at once.
    """
    for wait_seconds in _WAITS_SECONDS:
        try:
            return do()
        except (StorageAccessError, StorageNotFoundError):
            raise
        except StorageError as error:
            logger.warning("the store is tried again in %g s: %s", wait_seconds, error)
            time.sleep(wait_seconds)
    return do()
