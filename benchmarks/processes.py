"""Contestants in processes of their own."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent.parent
_SECONDS_BETWEEN_LOOKS = 0.2


def start(arguments: list[str], python: Path | None = None) -> subprocess.Popen[str]:
    """Start `python -m ARGUMENTS`, by another interpreter if one is given."""
    return subprocess.Popen(
        [str(python or sys.executable), "-m", *arguments],
        cwd=HERE,  # python -m looks there first
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen[str]) -> tuple[str, dict[str, float]]:
    """The line of JSON that it printed, and the CPU seconds of it and all that it started.

    The line is empty if it failed.
    """
    seconds: dict[int, float] = {}
    while process.poll() is None:
        for each in family(process):
            with suppress(psutil.Error):
                times = each.cpu_times()
                seconds[each.pid] = times.user + times.system
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    output, _ = process.communicate()
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return "" if process.returncode else lines[-1], {"cpu_seconds": sum(seconds.values())}


def measured(arguments: list[str]) -> dict[str, Any]:
    """What `python -m ARGUMENTS` printed as JSON; raises SystemExit if it failed."""
    last, _ = wait(start(arguments))
    if not last:
        raise SystemExit(f"{' '.join(arguments)} failed")
    found: dict[str, Any] = json.loads(last)
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """Kill it and all that it started, and take what it printed."""
    send_kill(process)
    process.communicate()


def send_kill(process: subprocess.Popen[str]) -> None:
    """Kill it and all that it started; for another thread than the one that waits for it."""
    found = family(process)
    for each in found:
        each.kill()
    psutil.wait_procs(found, timeout=30)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """It and all that it started, as far as they are there."""
    try:
        own = psutil.Process(process.pid)
        return [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
