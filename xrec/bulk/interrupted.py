"""What a user reads who stops a run by Ctrl-C or SIGTERM."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from xrec.bulk.progress import Survey
from xrec.bulk.run import BulkRun

logger = logging.getLogger("xrec")


@contextmanager
def tells_what_is_done(run: BulkRun, done: str) -> Iterator[None]:
    """If the block is interrupted, log how many rows are done, and that the command goes on.

    done: what is said of them, such as "pairs are done".
    """
    try:
        yield
    except KeyboardInterrupt:
        logger.warning(
            "stopped: %d of %d %s; run the same command again to go on with the others",
            Survey(run).summary.num_rows,
            run.record.num_rows,
            done,
        )
        raise
