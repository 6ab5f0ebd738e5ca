"""Names of driver processes, and whether such a process may still be running."""

import hashlib
import os
import re
import socket
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

_DRIVER = re.compile(r"(?P<host>.+), process (?P<pid>\d+) \((?P<machine>\w+)-(?P<started>\d+)\)")


def this_process() -> str:
    """Return the name of this process: host, process ID and, if /proc exists, boot and start time.

    The last two make the name unique.
    """
    own, machine = os.getpid(), _machine()
    started = _started(own)
    unique = f" ({machine}-{started})" if machine and started else ""
    return f"{socket.gethostname()}, process {own}{unique}"


def may_be_at_work(holder: str, expires_at: datetime | None, now: datetime | None = None) -> bool:
    """Return whether the driver `holder` may still be running, so that others must wait.

    expires_at: when its lease expires; None if it reported that it ended.
    """
    is_recent = expires_at is not None and expires_at > (now or datetime.now(UTC))
    return is_recent and not has_died(holder)


def has_died(holder: str) -> bool:
    """Return whether `holder`, a name from `this_process`, ran on this machine and has ended.

    False if unknown: the process ran on another machine, in another container or before a reboot.
    """
    name = _DRIVER.fullmatch(holder)
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
