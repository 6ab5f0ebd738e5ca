"""How many small faults the tests find: seeded mutants of modules that need no Ray.

    python -m benchmarks.mutants [--num-mutants 200] [--seed 0] [--root CHECKOUT]

A mutant changes one place of one module: a comparison, `and` or `or`, a sum or difference, a
number, True or False, `not`, or what is returned. It is written into the checkout, the tests of the
module's folder are run until one fails, and the module is restored. Give a checkout that nobody
else uses (`git worktree add`). A mutant that runs five times as long as the folder's tests counts
as found. Each is a line of mutants.jsonl.
"""

import ast
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

_FOLDERS = [
    "adapter",
    "aspects",
    "annotate",
    "checks",
    "config",
    "data",
    "generate",
    "graph",
    "llm",
    "storage",
    "text",
]
_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
}


def mutations(tree: ast.Module) -> Iterator[tuple[int, str, ast.expr, ast.expr]]:
    """Each place that can be changed: its line, what is changed, and the expression for another."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.expr) and (other := _mutated(node)) is not None:
                    yield node.lineno, f"{ast.unparse(node)} -> {ast.unparse(other)}", node, other
                if isinstance(node, ast.Return) and isinstance(node.value, ast.Call | ast.Name):
                    none = ast.Constant(None)
                    yield node.lineno, f"return {ast.unparse(node.value)}", node.value, none


def _mutated(node: ast.expr) -> ast.expr | None:
    match node:
        case ast.Compare(left, [op], comparators) if type(op) in _SWAPPED:
            return ast.Compare(left, [_SWAPPED[type(op)]()], comparators)  # type: ignore[list-item]
        case ast.BoolOp(op, values):
            return ast.BoolOp(_SWAPPED[type(op)](), values)  # type: ignore[arg-type]
        case ast.BinOp(left, op, right) if type(op) in _SWAPPED and not _is_text(node):
            return ast.BinOp(left, _SWAPPED[type(op)](), right)  # type: ignore[arg-type]
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(bool() as value):
            return ast.Constant(not value)
        case ast.Constant(int() as value):
            return ast.Constant(value + 1)
    return None


def _is_text(node: ast.AST) -> bool:
    return any(isinstance(each, ast.JoinedStr | ast.List) for each in ast.walk(node))


def candidates(root: Path) -> list[tuple[Path, Path, int]]:
    """Each mutation as a module, the folder of its tests, and its place among the module's."""
    found = []
    for folder in _FOLDERS:
        for module in sorted((root / "xrec" / folder).rglob("*.py")):
            tests = root / "tests" / module.parent.relative_to(root)
            source = module.read_text()
            needs_ray = "import ray" in source or "from ray" in source or "vllm" in str(module)
            if tests.is_dir() and not needs_ray:
                places = mutations(ast.parse(source))
                found += [(module, tests, number) for number, _ in enumerate(places)]
    return found


def run_tests(root: Path, tests: Path, seconds: float | None = None) -> tuple[str, float]:
    """`passed`, `failed` or `timeout` of the tests that lie in a folder itself, and seconds."""
    files = sorted(str(file) for file in tests.glob("test_*.py"))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=root,
            env=environment,
            timeout=seconds,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        return "timeout", time.monotonic() - began
    return "passed" if done.returncode in (0, 5) else "failed", time.monotonic() - began


def main(
    num_mutants: Annotated[int, typer.Option(min=1, help="How many.")] = 200,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    root: Annotated[Path, typer.Option(help="A checkout.")] = Path(),
    output: Annotated[Path, typer.Option(help="Where the lines go.")] = Path("mutants.jsonl"),
) -> None:
    """Make the mutants one after the other, and print the share that was found."""
    root = root.absolute()
    every = candidates(root)
    chosen = random.Random(seed).sample(every, min(num_mutants, len(every)))
    usual: dict[Path, float] = {}
    num_found = num_run = 0
    for module, tests, number in sorted(chosen):
        if tests not in usual:
            state, seconds = run_tests(root, tests)
            usual[tests] = seconds if state == "passed" else 0.0
        if not usual[tests]:
            continue  # its tests fail without a mutant
        source = module.read_text()
        tree = ast.parse(source)
        line, what, node, other = list(mutations(tree))[number]
        lines = source.splitlines(keepends=True)
        place = slice(node.lineno - 1, node.end_lineno)
        text = "".join(lines[place]).encode()
        last = len("".join(lines[node.lineno - 1 : (node.end_lineno or 1) - 1]).encode())
        start, end = node.col_offset, last + (node.end_col_offset or 0)
        changed = text[:start] + f"({ast.unparse(other)})".encode() + text[end:]
        try:
            module.write_text(
                "".join([*lines[: place.start], changed.decode(), *lines[place.stop :]])
            )
            state, seconds = run_tests(root, tests, max(120.0, 5 * usual[tests]))
        finally:
            module.write_text(source)
        num_run += 1
        num_found += state != "passed"
        record = {"module": str(module.relative_to(root)), "line": line, "what": what[:200]}
        with output.open("a") as file:
            file.write(json.dumps({**record, "state": state, "seconds": round(seconds, 1)}) + "\n")
    typer.echo(f"{num_found} of {num_run} mutants found ({num_found / max(1, num_run):.3f})")


if __name__ == "__main__":
    typer.run(main)
