"""Print how large the house is: lines, statements, modules, config fields, import circles.

    python -m benchmarks.size

Lines are those of `wc -l`. It reads source files only; nothing is measured in time.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx
import typer

import xrec.config
from xrec.config import Config

_ROOT = Path(__file__).parents[1]
_BESIDE = ("jobs", "tests", "benchmarks")


def rooms() -> Iterator[tuple[str, list[Path]]]:
    """Yield each package of the product, and each folder beside it, with its Python files."""
    for package in sorted(path.name for path in (_ROOT / "xrec").iterdir() if path.is_dir()):
        if files := sorted((_ROOT / "xrec" / package).rglob("*.py")):
            yield f"xrec/{package}", files
    yield "xrec/*.py", sorted((_ROOT / "xrec").glob("*.py"))
    for folder in _BESIDE:
        yield folder, sorted((_ROOT / folder).rglob("*.py"))


def sizes(files: list[Path]) -> tuple[int, int, int]:
    """Return the number of lines, statements, and files; a docstring is not a statement."""
    sources = [file.read_text(encoding="utf-8") for file in files]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    statements = [node for node in nodes if isinstance(node, ast.stmt) and not _is_text(node)]
    return sum(source.count("\n") for source in sources), len(statements), len(files)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def num_fields() -> int:
    """Return the number of fields of all config classes; an inherited field counts once."""
    own = 0
    for info in pkgutil.iter_modules(xrec.config.__path__, "xrec.config."):
        module = importlib.import_module(info.name)
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Config) and found.__module__ == module.__name__:
                own += sum(1 for name in found.__annotations__ if name in found.model_fields)
    return own


def circles() -> list[list[str]]:
    """Return the modules, and then the packages, that import each other in a circle.

    Imports inside functions count; imports for type checkers only do not.
    """
    imports = grimp.build_graph("xrec", exclude_type_checking_imports=True)
    modules = networkx.DiGraph(
        (module, imported)
        for module in imports.modules
        for imported in imports.find_modules_directly_imported_by(module)
    )
    packages = networkx.DiGraph(
        (_package(module), _package(imported))
        for module, imported in modules.edges
        if _package(module) != _package(imported)
    )
    components = [*map(networkx.strongly_connected_components, (modules, packages))]
    return [sorted(names) for found in components for names in found if len(names) > 1]


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def main() -> None:
    """Print the table."""
    total = [0, 0, 0]
    typer.echo("| folder | lines | statements | modules |\n|---|---|---|---|")
    for name, files in rooms():
        counts = sizes(files)
        typer.echo(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
        if name not in _BESIDE:
            total = [before + count for before, count in zip(total, counts, strict=True)]
    typer.echo("| **xrec** | " + " | ".join(f"**{count:,}**" for count in total) + " |")
    typer.echo(f"\n{num_fields()} config fields")
    for names in circles():
        typer.echo(f"circle: {', '.join(names)}")


if __name__ == "__main__":
    typer.run(main)
