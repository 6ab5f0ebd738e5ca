"""A pytest plugin that orders and shards the tests by their recorded durations.

`durations.json` has the seconds of each test function, all its cases together, as recorded by the
last run with `--record-durations`. The longest groups of tests start first, so that the processes
of `make test` end together, and `--shard K/N` runs one of N equal parts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

_SLOW = " (slow)"

# Tests that share expensive fixtures, such as a pipeline or a Ray cluster.
_GROUPS = (
    ("tests/xrec/jobs/",),
    ("tests/xrec/serve/",),
    (
        "tests/xrec/train/",
        "tests/xrec/bulk/test_pool.py",
        "tests/xrec/cluster/test_connect.py",
        "tests/xrec/nights/test_nights.py",
        "tests/xrec/processes/",
        "tests/test_explanations_page.py",
    ),
)


def group_of(nodeid: str) -> str:
    """Return the group of a test, whose tests all run in one process: its file, or one of ours."""
    file = nodeid.split("::")[0]
    return next((group[0] for group in _GROUPS if file.startswith(group)), file)


def shards(seconds: Mapping[str, float], number: int) -> list[set[str]]:
    """Return the groups in `number` parts: each, the longest first, goes into the shortest part."""
    parts: list[set[str]] = [set() for _ in range(number)]
    totals = [0.0] * number
    for group in _longest_first(seconds):
        shortest = totals.index(min(totals))
        parts[shortest].add(group)
        totals[shortest] += seconds[group]
    return parts


def _longest_first(seconds: Mapping[str, float]) -> list[str]:
    return sorted(seconds, key=lambda group: (-seconds[group], group))


def _key(nodeid: str, is_slow: bool) -> tuple[str, str]:
    """Return the file and the name of a test function; its slow cases have a name of their own."""
    file, _, name = nodeid.partition("::")
    return file, name.split("[")[0] + (_SLOW if is_slow else "")


def _file_of(config: pytest.Config) -> Path:
    return config.rootpath / "tests" / "durations.json"


def _read(config: pytest.Config) -> dict[tuple[str, str], float]:
    file = _file_of(config)
    files = json.loads(file.read_text()) if file.exists() else {}
    return {(file, name): value for file, tests in files.items() for name, value in tests.items()}


def _write(config: pytest.Config, seconds: Mapping[tuple[str, str], float]) -> None:
    """Write the seconds of all tests that still exist."""
    files: dict[str, dict[str, float]] = {}
    for (file, name), value in sorted(seconds.items()):
        path, function = config.rootpath / file, name.removesuffix(_SLOW)
        if path.exists() and f"def {function}(" in path.read_text():
            files.setdefault(file, {})[name] = round(value, 2)
    _file_of(config).write_text(json.dumps(files, indent=1) + "\n")


def _group_seconds(config: pytest.Config, items: Iterable[pytest.Item]) -> dict[str, float]:
    recorded = _read(config)
    groups = {_key(item.nodeid, "slow" in item.keywords): group_of(item.nodeid) for item in items}
    totals: Counter[str] = Counter()
    for key, group in groups.items():
        unknown = 60.0 if key[1].endswith(_SLOW) else 1.0
        totals[group] += recorded.get(key, unknown)
    return totals


def _shard(text: str) -> tuple[int, int]:
    number, count = (int(part) for part in text.split("/"))
    if not 1 <= number <= count:
        raise ValueError
    return number, count


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help="rewrite durations.json")
    parser.addoption("--shard", type=_shard, help="K/N: run the K-th of N parts, for instance 1/3")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Durations())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the shard, and move the longest groups to the front."""
    seconds = _group_seconds(config, items)
    kept = set(seconds)
    if shard := config.option.shard:
        number, count = shard
        kept = shards(seconds, count)[number - 1]
    if left_out := [item for item in items if group_of(item.nodeid) not in kept]:
        config.hook.pytest_deselected(items=left_out)
    rank = {group: index for index, group in enumerate(_longest_first(seconds))}
    items[:] = sorted(
        (item for item in items if group_of(item.nodeid) in kept),
        key=lambda item: rank[group_of(item.nodeid)],
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process of `make test` whole groups, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


class _Durations:
    """The seconds of the tests that ran; with xdist, in the process that reports."""

    def __init__(self) -> None:
        self._seconds: Counter[tuple[str, str]] = Counter()
        self._not_passed: set[tuple[str, str]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        key = _key(report.nodeid, "slow" in report.keywords)
        self._seconds[key] += report.duration
        if not report.passed:
            self._not_passed.add(key)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        passed = {key: self._seconds[key] for key in self._seconds.keys() - self._not_passed}
        if session.config.option.record_durations:
            _write(session.config, _read(session.config) | passed)
