"""Contestants in processes of their own, each with the xrec of some checkout."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent.parent
_SECONDS_BETWEEN_LOOKS = 0.2
_ACTORS = ("MapWorker", "ChunkActor")


def start(
    arguments: list[str],
    root: Path | None = None,
    python: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start `python -m ARGUMENTS` with the modules of the checkout `root`, and else with ours."""
    root = (root or HERE).absolute()
    return subprocess.Popen(
        [str(python or sys.executable), "-m", *arguments],
        cwd=root,  # python -m looks there first
        env={**os.environ, "PYTHONPATH": f"{root}:{HERE}", **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen[str]) -> tuple[str, dict[str, float]]:
    """The line of JSON that it printed, and CPU seconds: of it and all that it started, of actors.

    The line is empty if it failed.
    """
    seconds: dict[int, tuple[bool, float]] = {}
    while process.poll() is None:
        for each in _family(process):
            try:
                is_actor = any(name in " ".join(each.cmdline()[:1]) for name in _ACTORS)
                times = each.cpu_times()
            except psutil.Error:
                continue
            was_actor = seconds.get(each.pid, (False, 0.0))[0]
            seconds[each.pid] = (is_actor or was_actor, times.user + times.system)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    output, _ = process.communicate()
    cpu = {
        "cpu_seconds": sum(each for _, each in seconds.values()),
        "actor_cpu": sum(each for is_actor, each in seconds.values() if is_actor),
    }
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return "" if process.returncode else lines[-1], cpu


def kill(process: subprocess.Popen[str]) -> None:
    """Kill it and all that it started."""
    family = _family(process)
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=30)
    process.communicate()


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        own = psutil.Process(process.pid)
        return [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
