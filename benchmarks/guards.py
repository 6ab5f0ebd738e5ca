"""Break the guards listed in guards.txt one at a time, and report each that no test notices.

    make guards
    python -m benchmarks.guards [--only upkeep] [--root CHECKOUT]

A guard is code that keeps data from being lost, doubled, mixed, or leaked. For each guard,
guards.txt has its meaning, its file, the code (-), the change that breaks it (+), and the names of
the fast tests that must then fail. The same tests must pass without the change. Everything happens
in copies of the checkout.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

GUARDS = Path(__file__).with_suffix(".txt")
_FORKS = multiprocessing.get_context("forkserver")
_HEAVY = "deltalake duckdb fastapi pytest ray.data ray.serve s3fs schemathesis torch transformers"
_FORKS.set_forkserver_preload(_HEAVY.split())
_USUAL = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", "--timeout=240"]


@dataclass(frozen=True)
class Guard:
    """What must stay true, the code that ensures it, the change that breaks it, and its tests."""

    meaning: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @contextlib.contextmanager
    def broken(self, root: Path) -> Iterator[None]:
        """Break the guard while the block runs. Raises ValueError unless `old` is there once."""
        path = root / self.file
        source = path.read_text()
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.file}: expected {self.old!r} once, found it {count} times")
        path.write_text(source.replace(self.old, self.new))
        try:
            yield
        finally:
            path.write_text(source)


def read_guards(text: str) -> list[Guard]:
    """Return the guards in a text, one per paragraph."""
    return [_guard(paragraph.strip("\n").split("\n")) for paragraph in text.split("\n\n")]


def _guard(lines: list[str]) -> Guard:
    def those(mark: str) -> list[str]:
        return [line.removeprefix(mark) for line in lines if line.startswith(mark)]

    file, *tests = (line for line in lines if not line.startswith(("# ", "- ", "+ ")))
    old, new = ("\n".join(those(mark)) for mark in ("- ", "+ "))
    return Guard(" ".join(those("# ")), file, old, new, tuple(tests))


def find_tests(root: Path, names: Iterable[str]) -> list[str]:
    """Return the node ids of test functions, by name; raises ValueError if there is none."""
    texts = {path: path.read_text() for path in sorted((root / "tests").rglob("test_*.py"))}
    found = []
    for name in names:
        files = [path for path, text in texts.items() if f"\ndef {name}(" in text]
        if not files:
            raise ValueError(f"no test is named {name}")
        found += [f"{path.relative_to(root)}::{name}" for path in files]
    return found


def copied(root: Path, folder: Path) -> Path:
    """Copy all files of a checkout that git does not ignore; return the path of the copy.

    A folder `shared` beside the checkout is linked beside the copy.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / "copy" / name)
    if (root.parent / "shared").is_dir():
        (folder / "shared").symlink_to(root.parent / "shared")
    return folder / "copy"


@dataclass(frozen=True)
class Outcome:
    """How a run of pytest ended: `passed`, `failed` or `timeout`.

    seconds: how long each test function took, over all of its parameters.
    """

    state: str
    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run_tests(
    root: Path, tests: Iterable[str], *options: str, limit: float | None = None
) -> Outcome:
    """Run tests of a copy, without the slow ones, and kill every process that they started.

    Raises RuntimeError if pytest cannot run them or finds none.
    """
    log, report = root.parent / "pytest.log", root.parent / "junit.xml"
    arguments = [*_USUAL, *options, f"--junitxml={report}", *tests]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded
    process = _FORKS.Process(target=_pytest, args=(root, log, arguments))
    process.start()
    process.join(limit)
    ended = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    if ended is None:
        return Outcome("timeout")
    said = log.read_text()
    if "ERROR collecting" in said:  # a change that breaks an import; pytest then exits with 2 or 4
        return Outcome("failed", ["an import"])
    if ended not in (0, 1):
        raise RuntimeError(f"pytest ended with {ended}:\n{said[-4000:]}")
    failed, seconds = list[str](), defaultdict[str, float](float)
    for case in ET.parse(report).iter("testcase"):
        path = case.get("classname", "").replace(".", "/")
        name = f"{path}.py::{case.get('name', '').split('[')[0]}"
        seconds[name] += float(case.get("time", 0))
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
    return Outcome("failed" if ended else "passed", failed, dict(seconds))


def _pytest(root: Path, log: Path, arguments: list[str]) -> None:
    """Run pytest in a process that has imported third-party packages, which saves seconds."""
    os.setsid()
    os.chdir(root)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, str(root))
    os.environ |= {"PYTHONPATH": str(root), "COVERAGE_FILE": str(root.parent / "coverage")}
    import pytest

    sys.exit(int(pytest.main(arguments)))


def main(
    only: Annotated[str, typer.Option(help="Those whose meaning or file has this text.")] = "",
    root: Annotated[Path, typer.Option(help="A checkout; it is copied.")] = Path(),
    processes: Annotated[int, typer.Option(min=1, help="Guards at a time.")] = 2,
    listed: Annotated[Path, typer.Option(help="The list of guards.")] = GUARDS,
) -> None:
    """Exit with 1 if there are guards that no test notices."""
    guards = read_guards(listed.read_text())
    guards = [each for each in guards if only in f"{each.file} {each.meaning}"]
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            copies.put(copied(root.absolute(), Path(folder, str(number))))

        def survives(guard: Guard | None) -> bool:
            copy = copies.get()
            try:
                if guard is None:
                    names = sorted({name for each in guards for name in each.tests})
                    return run_tests(copy, find_tests(copy, names), "-x").state == "passed"
                with guard.broken(copy):
                    outcome = run_tests(copy, find_tests(copy, guard.tests), "-x", limit=900)
            finally:
                copies.put(copy)
            by = outcome.failed[0] if outcome.failed else outcome.state
            typer.echo(f"{guard.file}: {guard.meaning} [{by}]")
            return outcome.state == "passed"

        with ThreadPoolExecutor(processes) as pool:
            passes, *survived = pool.map(survives, [None, *guards])
    lost = [each for each, survives in zip(guards, survived, strict=True) if survives]
    for guard in lost:
        typer.echo(f"NO TEST NOTICES: {guard.file}: {guard.meaning}", err=True)
    if not passes:
        typer.echo("a test named in guards.txt fails although nothing was changed", err=True)
    typer.echo(f"{len(guards) - len(lost)} of {len(guards)} broken guards were noticed")
    raise typer.Exit(bool(lost) or not passes)


if __name__ == "__main__":
    typer.run(main)
