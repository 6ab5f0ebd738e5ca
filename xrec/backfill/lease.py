"""The lease: one run, one driver. A log of numbered entries, each created once; whoever creates the next one holds it.

lease/00000007.json holds who, and until when. A driver may create entry n + 1 if entry n has expired or is its own: it takes
the lease over or renews it by the same create-only write (S3: If-None-Match: *; disk: link(2)), so of two that try one wins.
The holder deletes older entries, never the newest. A driver that looked long ago may so create a number that is deleted;
it looks again after its write, sees a higher one, and has lost.

Expiry is read off the drivers' clocks. A clock that is wrong by more than the time between renewals, or a driver that
slept, can lead to two drivers for a while: work done twice, never a row twice, since chunks are committed once whoever runs.
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
    """Who holds the lease and until when; `holder` is a driver, not a machine: a restarted one is another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    holder: str
    host: str
    pid: int
    expires_at: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The lease on the run at `output`, held; `acquire` makes it."""

    def __init__(self, output: Location, number: int, holder: str, term_seconds: float):
        self._output = output
        self._number = number
        self._holder = holder
        self._term_seconds = term_seconds
        self._taken_by: LeaseEntry | None = None

    @classmethod
    def acquire(cls, output: Location, term_seconds: float) -> "Lease":
        """Take the lease for `term_seconds`; raises LeaseError, naming who holds it and until when, if another driver does."""
        number, entry = _newest(output)
        if entry is not None and entry.expires_at > datetime.now(UTC):
            raise _held(output, entry)
        if entry is not None:
            logger.info(
                "the lease of %s expired at %s and is taken over", entry, _time(entry.expires_at)
            )
        lease = cls(output, number + 1, uuid.uuid4().hex, term_seconds)
        _location(output, lease._number).create_bytes(lease._entry(term_seconds))
        lease._check_newest()  # also if it was created: a number that the holder deleted can be created again
        return lease

    def renew(self) -> None:
        """Hold it for another term; raises LeaseError if it expired and another driver took it over."""
        self._append(self._term_seconds)

    def release(self) -> None:
        """Let it expire now."""
        self._append(0)

    def check(self) -> None:
        """Raise LeaseError if a renewal found that another driver took the lease over."""
        if self._taken_by is not None:
            raise _held(self._output, self._taken_by)

    @contextmanager
    def renewed(self) -> Iterator["Lease"]:
        """Renewed by a thread inside the `with`, released at its end."""
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
            self._check_newest()  # it may be our own: a request that was sent again after its answer was lost
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
            except StorageError as error:  # the store may answer again before the term is over; commits do not depend on it
                logger.warning("the lease could not be renewed: %s", error)

    def _release_if_held(self) -> None:
        if self._taken_by is None:
            try:
                self.release()
            except (LeaseError, StorageError) as error:
                logger.warning(
                    "the lease was not released, it expires within %g s: %s",
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
    """The highest number and its entry; 0 and None if nobody ever held it. An entry deleted meanwhile has a higher one behind it."""
    while numbers := _numbers(output):
        try:
            return numbers[-1], LeaseEntry.model_validate_json(
                _location(output, numbers[-1]).read_bytes()
            )
        except StorageNotFoundError:
            continue
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
        f"{output}: {entry} runs this backfill and holds its lease until {_time(entry.expires_at)}, then renews it; wait for it to end, or stop it. "
        "If it is dead, run again after that time; or give another output URI"
    )
