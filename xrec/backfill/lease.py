"""The lease lets one driver at a time work on a run.

The lease is a log of numbered entries such as lease/00000007.json. An entry says which driver holds
the lease and until when. A driver may create entry n + 1 if entry n has expired or is its own. So
it takes the lease over, or renews it, by the same create-only write (`If-None-Match: *` on S3,
link(2) on disk); if two drivers try, one of them wins. The holder deletes older entries, never the
newest. A driver that read the log long ago may create an entry that was deleted already. So
`acquire` reads the log again after its write, and has lost if there is a higher entry.

Expiry is decided by the drivers' clocks. Two drivers can work at the same time if a clock is wrong
by more than the time between renewals, or if a driver was stopped for longer than its term. A
chunk is committed once even then. But a renewal does not read the log again after its write, so a
driver that was stopped may not notice that it lost the lease. If it then ends or compacts the run
while the other driver does a retry, files of that retry may be deleted, and their rows are lost.
"""

import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from xrec.errors import LeaseError, StorageError, StorageNotFoundError
from xrec.storage import Location

logger = logging.getLogger("xrec")

_RENEWALS_PER_TERM = 3


class LeaseEntry(BaseModel):
    """Who holds the lease, and until when.

    `holder` names one driver process; a driver that was started again is another holder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    holder: str
    host: str
    pid: int
    expires_at: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """A lease that this process holds on the run at `output`; `acquire` makes one."""

    def __init__(self, output: Location, number: int, holder: str, term_seconds: float):
        self._output = output
        self._number = number
        self._holder = holder
        self._term_seconds = term_seconds
        self._taken_by: LeaseEntry | None = None

    @classmethod
    def acquire(cls, output: Location, term_seconds: float) -> "Lease":
        """Take the lease for `term_seconds`, and return it.

        Raises LeaseError, which names the holder and the time of expiry, if another driver holds
        the lease.
        """
        number, entry = _newest(output)
        if entry is not None and entry.expires_at > datetime.now(UTC):
            raise _held(output, entry)
        if entry is not None:
            logger.info(
                "the lease of %s expired at %s and is taken over", entry, _time(entry.expires_at)
            )
        lease = cls(output, number + 1, uuid.uuid4().hex, term_seconds)
        _location(output, lease._number).create_bytes(lease._entry(term_seconds))
        # Even if the write succeeded: an entry that the holder has deleted can be created again.
        lease._check_newest()
        return lease

    def renew(self) -> None:
        """Hold the lease for another term; raises LeaseError if another driver took it over."""
        self._append(self._term_seconds)

    def release(self) -> None:
        """Let the lease expire now."""
        self._append(0)

    def check(self) -> None:
        """Raise LeaseError if a renewal found that another driver took the lease over."""
        if self._taken_by is not None:
            raise _held(self._output, self._taken_by)

    @contextmanager
    def renewed(self) -> Iterator["Lease"]:
        """Renew the lease in a thread inside the `with` block, and release it at the end."""
        ended = threading.Event()
        thread = threading.Thread(
            target=self._renew_until, args=(ended,), name="xrec-lease", daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            self._release_if_held()

    def _append(self, term_seconds: float) -> None:
        """Write the next entry and delete those before it."""
        if not _location(self._output, self._number + 1).create_bytes(self._entry(term_seconds)):
            # The entry may be our own, written by a request whose answer was lost.
            self._check_newest()
        self._number += 1
        for number in _numbers(self._output):
            if number < self._number:
                _location(self._output, number).delete()

    def _check_newest(self) -> None:
        _, newest = _newest(self._output)
        assert newest is not None
        if newest.holder != self._holder:
            self._taken_by = newest
            self.check()

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(self._term_seconds / _RENEWALS_PER_TERM) and self._taken_by is None:
            try:
                self.renew()
            except LeaseError as error:
                logger.warning("%s", error)
            except StorageError as error:
                # The store may answer again before the term is over.
                logger.warning("the lease could not be renewed: %s", error)

    def _release_if_held(self) -> None:
        if self._taken_by is None:
            try:
                self.release()
            except (LeaseError, StorageError) as error:
                logger.warning(
                    "the lease was not released and expires within %g s: %s",
                    self._term_seconds,
                    error,
                )

    def _entry(self, term_seconds: float) -> bytes:
        expires_at = datetime.now(UTC) + timedelta(seconds=term_seconds)
        entry = LeaseEntry(
            holder=self._holder, host=socket.gethostname(), pid=os.getpid(), expires_at=expires_at
        )
        return json.dumps(entry.model_dump(mode="json"), indent=2).encode()


def _newest(output: Location) -> tuple[int, LeaseEntry | None]:
    """Return the highest number and its entry, or 0 and None if nobody ever held the lease."""
    while numbers := _numbers(output):
        try:
            data = _location(output, numbers[-1]).read_bytes()
        except StorageNotFoundError:
            continue  # the holder deleted the entry meanwhile, so there is a higher one
        return numbers[-1], LeaseEntry.model_validate_json(data)
    return 0, None


def _numbers(output: Location) -> list[int]:
    return [
        int(name.removesuffix(".json"))
        for name in (output / "lease").files()
        if name.endswith(".json")
    ]


def _location(output: Location, number: int) -> Location:
    return output / "lease" / f"{number:08d}.json"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _held(output: Location, entry: LeaseEntry) -> LeaseError:
    return LeaseError(
        f"{output}: {entry} runs this backfill and holds its lease until "
        f"{_time(entry.expires_at)}, unless it renews it; wait until it ends, or stop it. "
        "If it is dead, run again after that time, or give another output URI"
    )
