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
    """Who this driver is: its host and process, and where there is a /proc what no other has."""
    own, machine = os.getpid(), _machine()
    started = _started(own)
    unique = f" ({machine}-{started})" if machine and started else ""
    return f"{socket.gethostname()}, process {own}{unique}"


def may_be_at_work(holder: str, expires_at: datetime | None, now: datetime | None = None) -> bool:
    """Whether driver `holder`, who is taken for alive until `expires_at`, is to be waited for.

    expires_at: None if it said that it ended. One that was a process of this machine and is no more
    is not waited for.
    """
    is_recent = expires_at is not None and expires_at > (now or datetime.now(UTC))
    return is_recent and not has_died(holder)


def has_died(holder: str) -> bool:
    """Whether `holder`, a `this_process`, is a process of this machine that is no more.

    False for one that nothing is known of: of another machine or container, or before a restart.
    """
    found = _DRIVER.fullmatch(holder)
    if found is None or found["machine"] != _machine():
        return False
    return _started(int(found["pid"])) != found["started"]


@cache
def _machine() -> str:
    """What this start of the machine and the namespace of its processes have alone; "" if unknown.

    Containers of one machine have namespaces of their own, so process 7 of one is none of another.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine did; "" if there is none.

    One that is dead and not yet waited for is none.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
