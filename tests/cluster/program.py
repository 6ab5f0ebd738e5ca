"""Runs the program as a user does, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable

import psutil


def xrec(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `xrec ARGUMENTS` with `variables` added to the environment."""
    command = [sys.executable, "-m", "xrec.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def still_running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not ended; a zombie has ended."""
    return [process for process in processes if process.is_running() and not _is_zombie(process)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
