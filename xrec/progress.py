"""Progress of long work: a bar on a terminal, lines of the log elsewhere. For driver processes."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger("xrec")

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items`, and show how many of `total` are done."""
    if sys.stderr.isatty():
        # Loading rich takes 0.3 s, and actors import this module too.
        from rich.console import Console
        from rich.progress import track

        yield from track(
            items,
            description=description,
            total=total,
            console=Console(stderr=True),
            transient=True,
        )
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > _SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            logger.info("%s: %d of %d", description, done, total)
