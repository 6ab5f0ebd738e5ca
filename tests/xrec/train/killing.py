"""Ends the processes of a training with kill -9, by their own ids, for the tests of resuming."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil


def training_workers(ancestor: psutil.Process) -> list[psutil.Process]:
    """Return Ray Train's workers among the descendants of `ancestor`."""
    return [
        process
        for process in ancestor.children(recursive=True)
        if "RayTrainWorker" in " ".join(_command(process))
    ]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        command: list[str] = process.cmdline()
        return command
    return []


def kill_family(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process with kill -9, and then the processes that it leaves behind.

    The workers are stopped first: on a busy machine, orphans could finish the training meanwhile.
    """
    family = psutil.Process(process.pid).children(recursive=True)
    for worker in training_workers(psutil.Process(process.pid)):
        worker.suspend()
    os.kill(process.pid, signal.SIGKILL)
    _, orphans = psutil.wait_procs(family, timeout=10)
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()


@contextlib.contextmanager
def driver(
    command: str,
    config: Path,
    log: Path,
    *overrides: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `xrec COMMAND CONFIG OVERRIDES` in a process, which is killed after the `with`."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **(variables or {}),
    }
    arguments = [
        str(Path(sys.executable).with_name("xrec")),
        *command.split(),
        str(config),
        *overrides,
    ]
    with (
        log.open("ab") as output,
        subprocess.Popen(arguments, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def at_message(text: str, action: Callable[[], object]) -> Iterator[None]:
    """Inside the `with`, call `action` when this process first logs a message with `text` in it."""
    seen: list[logging.LogRecord] = []

    def look(record: logging.LogRecord) -> None:
        if text in record.getMessage() and not seen:
            seen.append(record)
            action()

    logger, handler = logging.getLogger("xrec"), logging.Handler()
    handler.emit = look
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert seen, f"nothing was logged with {text!r}"
