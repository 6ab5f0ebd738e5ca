"""Measure how many small faults the fast tests find: 20 mutants of each package.

    make mutants PACKAGES='bulk storage'
    python -m benchmarks.mutants bulk storage [--root CHECKOUT]
    python -m benchmarks.mutants             print the scores measured so far

A mutant changes one expression: a comparison, `and` or `or`, `min` or `max`, a sum, a small
number, True or False, `not`, or a call whose result is not used. Mutants are drawn with the
package's name as the seed and identified by module, function, and text, so two commits share most
of their mutants and can be compared.

The package's own fast tests run once under coverage to record which of them reach each line. Each
mutant then runs against those that reach it, fastest first, for up to a quarter of the time that
all of them take, but at least a minute. If none reaches it, because only child processes and Ray
workers run its line, any of the package's tests are used. Tests of other packages do not count. A
failing test must fail twice. A timeout counts as found.

Each result is appended to mutants.jsonl, and mutants that have a result are not run again. A mutant
that changes nothing can be marked by hand with `equivalent` and a reason: at most one in 20.
"""

import ast
import hashlib
import json
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer
from coverage import CoverageData
from scipy.stats import binomtest

from benchmarks.guards import copied, run_tests

RESULTS = Path(__file__).with_suffix(".jsonl")
_EITHER = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn)),
    *((ast.Is, ast.IsNot), (ast.And, ast.Or), (ast.Add, ast.Sub)),
)
_SWAPPED: dict[type[ast.AST], Any] = {ast.Mult: ast.Add, ast.Div: ast.Mult, **dict(_EITHER)}
_SWAPPED |= {other: one for one, other in _EITHER}
_LEAST_SECONDS = 60.0
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LEFT_ALONE = {"annotation", "returns", "decorator_list"}


@dataclass(frozen=True)
class Mutant:
    """A module with one expression changed. lines: from its statement's first line to its last."""

    module: str
    key: str
    lines: range
    source: str


def mutants_of(source: str, module: str) -> Iterator[Mutant]:
    """Yield each mutant of a module's functions and classes."""
    text, seen = source.encode(), Counter[str]()
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    for function, statement, node, other in _places(ast.parse(source), "", None):
        key = f"{module} {function}: {ast.unparse(node)} -> {ast.unparse(other)}"
        seen[key] += 1
        number, last = f" #{seen[key]}" if seen[key] > 1 else "", node.end_lineno or node.lineno
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[last - 1] + (node.end_col_offset or 0)
        changed = (text[:start] + f"({ast.unparse(other)})".encode() + text[end:]).decode()
        with suppress(SyntaxError):  # as in a pattern
            ast.parse(changed)
            yield Mutant(module, key + number, range(statement.lineno, last + 1), changed)


def _places(
    node: ast.AST, function: str, statement: Any
) -> Iterator[tuple[str, ast.stmt, ast.expr, ast.expr]]:
    """Yield each expression with its function, its statement, and a replacement."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name in _LEFT_ALONE or not isinstance(child, ast.AST) or _is_message(child):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _places(child, f"{function}.{child.name}".lstrip("."), child)
                continue
            inner = child if isinstance(child, ast.stmt) else statement
            if isinstance(child, ast.expr) and function and (other := _other(child, node)):
                yield function, inner, child, other
            yield from _places(child, function, inner)


def _is_message(node: ast.AST) -> bool:
    """Return whether a node is an f-string, a raise statement, or a logging call."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return "log" in ast.unparse(node.value.func).split(".")[0]
    return isinstance(node, ast.Raise | ast.JoinedStr)


def _other(node: ast.expr, parent: ast.AST) -> ast.expr | None:
    match node:
        case ast.Compare(left, [op, *ops], comparators) if type(op) in _SWAPPED:
            return ast.Compare(left, [_SWAPPED[type(op)](), *ops], comparators)
        case ast.BoolOp(op, values):
            return ast.BoolOp(_SWAPPED[type(op)](), values)
        case ast.BinOp(left, op, right) if type(op) in _SWAPPED and not _is_text(node):
            return ast.BinOp(left, _SWAPPED[type(op)](), right)
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(bool() as value):
            return ast.Constant(not value)
        case ast.Constant(int() as value) if value <= 2:
            return ast.Constant(value + 1)
        case ast.Name(name) if name in _NAMES and isinstance(parent, ast.Call):
            return ast.Name(_NAMES[name])
        case ast.Call() | ast.Await() if isinstance(parent, ast.Expr):
            return ast.Constant(None)
    return None


def _is_text(node: ast.AST) -> bool:
    kinds = (str, bytes)
    return any(
        isinstance(each, ast.JoinedStr | ast.List) or isinstance(getattr(each, "value", 0), kinds)
        for each in ast.walk(node)
    )


def chosen(root: Path, package: str, num: int) -> list[Mutant]:
    """Return `num` mutants of a package, ordered by a hash of the package and the mutant's key."""
    places = [root / "xrec" / package, root / "xrec" / f"{package}.py", root / package]
    place = next(each for each in places if each.exists())
    found = list[Mutant]()
    for module in [place] if place.is_file() else sorted(place.rglob("*.py")):
        if "vllm" not in module.parts:  # it is not installed
            found += mutants_of(module.read_text(), str(module.relative_to(root)))
    found.sort(key=lambda each: hashlib.sha256((package + each.key).encode()).digest())
    return found[:num]


@dataclass(frozen=True)
class Recorded:
    """How long each fast test of a package takes, and which lines it reaches."""

    root: Path
    seconds: dict[str, float]
    data: CoverageData

    def reaching(self, mutant: Mutant) -> set[str]:
        """Return the tests that reach a mutant; all tests of a file if a fixture there does."""
        lines = self.data.contexts_by_lineno(str(self.root / mutant.module))
        found: set[str] = set()
        for context in {context for line in mutant.lines for context in lines.get(line, [])}:
            test, _, phase = context.rpartition("|")
            file = test.split("::")[0]
            same = (other for other in self.seconds if other.split("::")[0] == file)
            found.update([test.split("[")[0]] if phase == "run" else same)
        return found & self.seconds.keys()

    def fastest(self, tests: Iterable[str], seconds: float) -> set[str]:
        """Return the fastest tests that take at most `seconds` together."""
        found = set()
        for test in sorted(tests, key=lambda each: (self.seconds[each], each)):
            if (seconds := seconds - self.seconds[test]) < 0:
                break
            found.add(test)
        return found


def record(root: Path, package: str) -> Recorded:
    """Run the fast tests of a package of a copy under coverage, and leave out those that fail."""
    folders = [root / "tests" / "xrec" / package, root / "tests" / package]
    tests = [str(each.relative_to(root)) for each in folders if each.exists()]
    measured = ["--cov=xrec"]
    outcome = run_tests(root, tests, *measured, "--cov-context=test", "--cov-report=")
    data = CoverageData(str(root.parent / "coverage"))
    data.read()
    good = {test: s for test, s in outcome.seconds.items() if test not in outcome.failed}
    return Recorded(root, good, data)


def judged(recorded: Recorded, mutant: Mutant) -> tuple[str, str]:
    """Test a mutant; return `found`, `timeout`, or `survived`, and the test that failed."""
    most = max(_LEAST_SECONDS, sum(recorded.seconds.values()) / 4)
    near = recorded.fastest(recorded.reaching(mutant) or recorded.seconds, most)
    first = recorded.fastest(near, most / 5)
    for tests in map(sorted, (first, near - first)):
        while tests:
            limit = 180 + 5 * sum(recorded.seconds[test] for test in tests)
            outcome = run_tests(recorded.root, tests, "-x", limit=limit)
            if outcome.state == "passed":
                break
            failed = next(iter(outcome.failed), "")
            if outcome.state == "timeout" or failed not in tests:  # or nothing can be imported
                return ("found" if failed else "timeout"), failed
            if run_tests(recorded.root, [failed], limit=limit).state != "passed":
                return "found", failed
            tests.remove(failed)  # it is flaky
    return "survived", ""


def scores(lines: Iterable[dict[str, Any]]) -> str:
    """Return a row for each package and revision, and compare the first and the last revision."""
    runs: dict[str, dict[str, dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if "equivalent" not in line:
            runs[line["package"]][line["revision"]][line["mutant"]] = line["state"] != "survived"
    rows = []
    for package, revisions in runs.items():
        for revision, states in revisions.items():
            found, num = sum(states.values()), len(states)
            low, high = binomtest(found, num).proportion_ci(method="wilson")
            rows.append(f"{package:10} {revision:15} {found} of {num} ({low:.2f} to {high:.2f})")
        before, after = next(iter(revisions.values())), list(revisions.values())[-1]
        both = before.keys() & after.keys()
        if len(revisions) > 1:
            first, last = (sum(states[each] for each in both) for states in (before, after))
            rows.append(f"{'':10} of the {len(both)} in both: {first}, then {last}")
    return "\n".join(rows)


def main(
    packages: Annotated[list[str] | None, typer.Argument(help="bulk, serve, ...")] = None,
    num: Annotated[int, typer.Option(min=1, help="Mutants of each package.")] = 20,
    root: Annotated[Path, typer.Option(help="A checkout; it is copied.")] = Path(),
    results: Annotated[Path, typer.Option(help="Where the lines go.")] = RESULTS,
) -> None:
    """Run the mutants of the packages one after the other, and print all scores."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=8"]
    answer = subprocess.run(described, cwd=root, check=True, capture_output=True, text=True)
    revision = answer.stdout.strip()
    lines = list(map(json.loads, results.read_text().splitlines())) if results.exists() else []
    done = {(line["revision"], line["mutant"]) for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(root.absolute(), Path(folder))
        for package in packages or []:
            left = [each for each in chosen(copy, package, num) if (revision, each.key) not in done]
            if not left:
                continue
            recorded = record(copy, package)
            for mutant in left:
                path, began = copy / mutant.module, time.monotonic()
                source = path.read_text()
                try:
                    path.write_text(mutant.source)
                    state, by = judged(recorded, mutant)
                finally:
                    path.write_text(source)
                seconds = round(time.monotonic() - began)
                lines.append({"package": package, "revision": revision, "mutant": mutant.key})
                lines[-1] |= {"state": state, "by": by, "seconds": seconds}
                with results.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    typer.echo(scores(lines))


if __name__ == "__main__":
    typer.run(main)
