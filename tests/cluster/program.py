"""The program, run as a user runs it."""

import os
import subprocess
import sys


def xrec(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`xrec ARGUMENTS` in a process of its own, with `variables` in its environment."""
    command = [sys.executable, "-m", "xrec.cli", *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False)
