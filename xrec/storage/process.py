"""Who a driver is, and whether it may be at work."""

import hashlib
import os
import re
import socket
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

_DRIVER = re.compile(r"(?P<host>.+), process (?P<pid>\d+) \((?P<machine>\w+)-(?P<started>\d+)\)")


def this_process() -> str:
    """The name of this driver: host and process id and, where there is a /proc, its boot and start.

    With the latter two no other process has the same name.
    """
    own, machine = os.getpid(), _machine()
    started = _started(own)
    unique = f" ({machine}-{started})" if machine and started else ""
    return f"{socket.gethostname()}, process {own}{unique}"


def may_be_at_work(holder: str, expires_at: datetime | None, now: datetime | None = None) -> bool:
    """Whether the driver `holder` may still work, so that others must wait.

    expires_at: until when it is taken for alive; None if it said that it ended.
    """
    is_recent = expires_at is not None and expires_at > (now or datetime.now(UTC))
    return is_recent and not has_died(holder)


def has_died(holder: str) -> bool:
    """Whether `holder`, a name by `this_process`, was a process of this machine and has ended.

    False where that is not known: of another machine or container, or from before a restart.
    """
    found = _DRIVER.fullmatch(holder)
    if found is None or found["machine"] != _machine():
        return False
    return _started(int(found["pid"])) != found["started"]


@cache
def _machine() -> str:
    """An id of the machine's last start and of this namespace of processes; "" if unknown.

    Containers of one machine have namespaces of their own: process 7 of each is another process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; "" if there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
