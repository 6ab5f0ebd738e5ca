"""One driver trains into a folder of checkpoints at a time; a second one is told so.

A driver that trains writes into `driver.json` who it is and until when it is to be taken for alive,
and does so again every few seconds. This saves work and is no lock: two drivers that find a dead
one's lease in the same moment both go on, do the same work, and end with the same artifact.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from xrec.errors import LeaseError, StorageError, StorageNotFoundError
from xrec.storage import Location, may_be_at_work, this_process

CHECKPOINTS = "checkpoints"
"""The folder of a training's checkpoints, below its output."""
_FILE = "driver.json"
LEASE = timedelta(seconds=60)
_RENEWALS = 4  # in the time of a lease


@contextmanager
def only_driver(
    checkpoints: Location, *, holder: str | None = None, lease: timedelta = LEASE
) -> Iterator[None]:
    """Hold the folder while the block runs, and for the rest of the lease once it has ended well.

    So the artifact can be written and the folder deleted. holder: this process, or who it is in
    a test. Raises LeaseError if another driver may be at work.
    """
    location, own = checkpoints / _FILE, holder or this_process()
    if not location.create_bytes(_record(own, lease)):
        _refuse_another(location, own)
        location.write_bytes(_record(own, lease))
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(lease.total_seconds() / _RENEWALS):
            with suppress(StorageError):  # it may answer at the next try; training goes on
                location.write_bytes(_record(own, lease))

    renewing = threading.Thread(target=renew, name="xrec-lease", daemon=True)
    renewing.start()
    is_whole = False
    try:
        yield
        is_whole = True
    finally:
        ended.set()
        renewing.join()
        if not is_whole:
            location.delete()


def refuse_live_training(checkpoints: Location) -> None:
    """Raise LeaseError if a driver may be training into the folder."""
    _refuse_another(checkpoints / _FILE, "")


def _record(holder: str, lease: timedelta) -> bytes:
    expires_at = datetime.now(UTC) + lease
    return json.dumps({"holder": holder, "expires_at": expires_at.isoformat()}).encode()


def _refuse_another(location: Location, own: str) -> None:
    try:
        there = json.loads(location.read_text())
    except StorageNotFoundError:  # it failed just now
        return
    expires_at = datetime.fromisoformat(there["expires_at"])
    if there["holder"] != own and may_be_at_work(there["holder"], expires_at):
        raise LeaseError(
            f"{location}: {there['holder']} trains this very run, and is taken for alive until "
            f"{expires_at:%Y-%m-%d %H:%M:%S} UTC, or longer if it goes on; wait until it ends, or "
            "stop it. If it is dead, run again after that time",
            code="lease_held",
            key=str(location),
            saw=there["holder"],
        )
