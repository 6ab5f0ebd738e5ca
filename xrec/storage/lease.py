"""Leases: the process that is working on a folder, and how long others must wait for it.

A lease prevents duplicate work but is not a lock: two drivers that find an expired lease at the
same moment both start. They must therefore write identical files, or create each file once.
"""

import hashlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from xrec.errors import LeaseError, StorageError, StorageNotFoundError
from xrec.storage.location import Location
from xrec.storage.manifest import Record

DRIVER = "driver.json"
"""The file with the lease of the driver that is working on the folder."""
AT_WORK = "_at_work"
"""The folder in a workspace with a lease for each job that is running."""
TERM = timedelta(seconds=60)
_RENEWALS = 4  # per term
_PROCESS = re.compile(r"(?P<host>.+), process (?P<pid>\d+) \((?P<machine>\w+)-(?P<started>\d+)\)")


class Lease(Record):
    """The content of a lease file.

    holder: the name of a process (`this_process`).
    expires_at: when the holder is considered dead, unless it renews the lease; None if it ended.
    """

    holder: str = ""
    expires_at: datetime | None = None

    def is_alive(self, at: datetime | None = None) -> bool:
        """Return whether the holder may still be running, so that others must wait."""
        is_recent = self.expires_at is not None and self.expires_at > (at or datetime.now(UTC))
        return is_recent and not has_died(self.holder)

    def refuse_others(self, folder: Location, code: str, *, but: str = "") -> None:
        """Raise LeaseError with `code` if a holder other than `but` may be running."""
        if self.holder == but or not self.is_alive():
            return
        raise LeaseError(
            f"{folder}: {self.holder} is working on this run; its lease ends at "
            f"{self.expires_at:%Y-%m-%d %H:%M:%S} UTC unless it is renewed. Wait until the process "
            "ends, or stop it; if it has died, run the command again after that time",
            code=code,
            key=str(folder),
            saw=self.holder,
        )


class Beat:
    """A thread that calls `renew` at an interval until `end`.

    error: the error that ended the thread early, or None.
    wait: waits for an event, like `Event.wait`.
    """

    def __init__(
        self,
        renew: Callable[[], None],
        seconds: float,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ):
        self.error: Exception | None = None
        self._renew, self._seconds, self._wait = renew, seconds, wait
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="xrec-lease", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._wait(self._ending, self._seconds):
            try:
                self._renew()
            except Exception as error:  # noqa: BLE001  the main thread raises it
                self.error = error
                return


@contextmanager
def only_driver(
    folder: Location, *, holder: str | None = None, term: timedelta = TERM
) -> Iterator[None]:
    """Hold the folder's lease during the `with` block.

    If the block succeeds, the lease remains for the rest of its term, so that the result can be
    published and the folder deleted; otherwise it is released. Raises LeaseError if another driver
    may be running.

    holder: by default, this process.
    """
    file, own = folder / DRIVER, holder or this_process()

    def lease() -> bytes:
        return Lease(holder=own, expires_at=datetime.now(UTC) + term).to_bytes()

    def renew() -> None:
        with suppress(StorageError):  # the next renewal may succeed
            file.write_bytes(lease())

    if not file.create_bytes(lease()):
        refuse_driver(folder, but=own)
        file.write_bytes(lease())
    beat, is_whole = Beat(renew, term.total_seconds() / _RENEWALS), False
    beat.begin()
    try:
        yield
        is_whole = True
    finally:
        beat.end()
        if not is_whole:
            file.delete()


@contextmanager
def at_work(workspace: Location, *, term: timedelta = TERM) -> Iterator[None]:
    """Show during the `with` block that a job of the workspace is running; several may be.

    Nothing is shown in a workspace that does not exist yet, where nobody was forgotten.
    """
    if not workspace.exists():
        yield
        return
    file = workspace / AT_WORK / f"{uuid.uuid4().hex}.json"

    def sign() -> None:
        with suppress(StorageError):  # the next one may succeed
            expires_at = datetime.now(UTC) + term
            file.write_bytes(Lease(holder=this_process(), expires_at=expires_at).to_bytes())

    sign()
    beat = Beat(sign, term.total_seconds() / _RENEWALS)
    beat.begin()
    try:
        yield
    finally:
        beat.end()
        with suppress(StorageError):  # it expires
            file.delete()


def wait_for_jobs(
    workspace: Location, tell: Callable[[str], None], wait: Callable[[float], None] = time.sleep
) -> None:
    """Wait until the jobs of the workspace that are running now have ended, or have died."""
    folder, told = workspace / AT_WORK, set[str]()
    waiting_for = {*folder.sizes()}
    while waiting_for:
        for name in sorted(waiting_for):
            lease = Lease()
            with suppress(StorageNotFoundError):
                lease = Lease.read(folder / name)
            if not lease.is_alive():
                waiting_for.remove(name)
                (folder / name).delete()
            elif lease.holder not in told:
                told.add(lease.holder)
                tell(f"waiting for {lease.holder}, which is running a job of {workspace}")
        if waiting_for:
            wait(2.0)


def refuse_driver(folder: Location, *, but: str = "") -> None:
    """Raise LeaseError if a driver other than `but` may be working on the folder."""
    with suppress(StorageNotFoundError):
        Lease.read(folder / DRIVER).refuse_others(folder, "lease_held", but=but)


def this_process() -> str:
    """Return the name of this process: host, process ID and, if /proc exists, boot and start time.

    The last two make the name unique.
    """
    pid, machine = os.getpid(), _machine()
    started = _started(pid)
    unique = f" ({machine}-{started})" if machine and started else ""
    return f"{socket.gethostname()}, process {pid}{unique}"


def has_died(holder: str) -> bool:
    """Return whether `holder`, a name from `this_process`, ran on this machine and has ended.

    False if unknown: the process ran on another machine, in another container or before a reboot.
    """
    name = _PROCESS.fullmatch(holder)
    if name is None or name["machine"] != _machine():
        return False
    return _started(int(name["pid"])) != name["started"]


@cache
def _machine() -> str:
    """Return an ID for this machine's current boot and this PID namespace; "" if unknown.

    Each container has its own namespace, so the same process ID may mean another process there.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """Return when a process started, in ticks since boot; "" if it has ended or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
