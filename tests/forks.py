"""A pytest plugin: `--forks N` runs the tests in N forks of the process that collected them.

So torch, Ray and transformers are imported once a run, and not once a process. A fork takes one
group of tests after the other, in the order of `tests/durations.py`, from a pipe that holds their
numbers. It keeps what it has for the session, such as a Ray cluster. Its reports are sent to the
first process, which shows them.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import pytest

from tests.durations import group_of

_NUMBER = struct.Struct("i")
Groups = Sequence[Sequence[pytest.Item]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="processes that run tests; 0: this one")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    config = session.config
    if not config.option.forks or config.option.collectonly or session.testsfailed:
        return None
    by_group = groupby(session.items, lambda item: group_of(item.nodeid))
    groups = [list(group) for _, group in by_group]
    numbers = _pipe_of(range(len(groups)))
    folder = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    forks: dict[Connection, int] = {}
    for number in range(min(config.option.forks, len(groups))):
        ours, theirs = Pipe(duplex=False)
        if (pid := os.fork()) == 0:
            try:
                _work(session, groups, numbers, theirs, folder / f"fork-{number}")
            finally:
                os._exit(0)
        theirs.close()
        forks[ours] = pid
    try:
        _show(session, groups, numbers, forks)
    finally:
        for pid in forks.values():
            os.waitpid(pid, 0)
    return True


def _pipe_of(numbers: Sequence[int]) -> int:
    """Return the end of a pipe from which each number is read by one process."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(map(_NUMBER.pack, numbers)))
    os.close(writing)
    return reading


def _left_in(numbers: int) -> Iterator[int]:
    while data := os.read(numbers, _NUMBER.size):
        yield _NUMBER.unpack(data)[0]


class _Sender:
    """Sends what happens to a test to the first process."""

    def __init__(self, config: pytest.Config, connection: Connection):
        self._config, self._connection = config, connection

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._connection.send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._connection.send(
            hook.pytest_report_to_serializable(config=self._config, report=report)
        )


def _work(
    session: pytest.Session, groups: Groups, numbers: int, connection: Connection, folder: Path
) -> None:
    """Run groups in this fork until none is left, or until the run is to stop."""
    config = session.config
    folder.mkdir(mode=0o700)
    config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
    plugins = config.pluginmanager
    capture: Any = plugins.getplugin("capturemanager")
    capture.stop_global_capturing()  # its files are those of all forks
    capture.start_global_capturing()
    capture.suspend_global_capture()
    for name in ("terminalreporter", "junitxml"):
        if (plugin := plugins.getplugin(name)) is not None:
            plugins.unregister(plugin)
    plugins.register(_Sender(config, connection))
    try:
        for number in _left_in(numbers):
            group = groups[number]
            # After the last test of a group only what is the session's stays.
            for item, following in zip(group, [*group[1:], session], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldfail or session.shouldstop:
                    return
    finally:
        session._setupstate.teardown_exact(None)
        connection.close()


def _show(
    session: pytest.Session, groups: Groups, numbers: int, forks: Iterable[Connection]
) -> None:
    """Report what the forks send until all have ended; what a dead one did not end has failed."""
    config, started, ended = session.config, set[str](), set[str]()
    if (terminal := config.pluginmanager.getplugin("terminalreporter")) is not None:
        terminal.showfspath = False  # tests of several files come by turns
    alive = list(forks)
    while alive:
        for connection in wait(alive):
            assert isinstance(connection, Connection)
            try:
                sent = connection.recv()
            except EOFError:
                alive.remove(connection)
                continue
            if isinstance(sent, str):
                started.add(sent)
                continue
            report = config.hook.pytest_report_from_serializable(config=config, data=sent)
            config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                ended.add(report.nodeid)
        if session.shouldfail or session.shouldstop:
            list(_left_in(numbers))  # nobody begins another group
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    for item in (item for group in groups for item in group if item.nodeid not in ended):
        why = "its process died" if item.nodeid in started else "not run: its process had died"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        config.hook.pytest_runtest_logreport(report=report)
