"""How large the house is: lines as `wc -l` counts them, modules, config fields, commands.

    python -m benchmarks.size

It reads source files only, and prints one table; nothing is measured in time.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import typer

import xrec.config
from xrec.config.base import Config

_ROOT = Path(__file__).parents[1]
_PRODUCT = ("xrec", "jobs")
_BESIDE = ("tests", "benchmarks")


def rooms() -> Iterator[tuple[str, list[Path]]]:
    """Each package of the product, and each folder beside it, with its Python files."""
    for package in sorted(each.name for each in (_ROOT / "xrec").iterdir() if each.is_dir()):
        if files := sorted((_ROOT / "xrec" / package).rglob("*.py")):
            yield f"xrec/{package}", files
    yield "xrec/*.py", sorted((_ROOT / "xrec").glob("*.py"))
    for folder in (*_PRODUCT[1:], *_BESIDE):
        yield folder, sorted((_ROOT / folder).rglob("*.py"))


def num_lines(files: list[Path]) -> int:
    """The lines of all files together."""
    return sum(file.read_bytes().count(b"\n") for file in files)


def num_fields() -> int:
    """The fields of all config classes; one that several classes inherit counts once."""
    own = 0
    for info in pkgutil.iter_modules(xrec.config.__path__, "xrec.config."):
        module = importlib.import_module(info.name)
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Config) and found.__module__ == module.__name__:
                own += sum(1 for name in found.__annotations__ if name in found.model_fields)
    return own


def main() -> None:
    """Print the table."""
    product_lines = product_modules = 0
    typer.echo("| folder | lines | modules |\n|---|---|---|")
    for name, files in rooms():
        typer.echo(f"| {name} | {num_lines(files):,} | {len(files)} |")
        if name.split("/")[0] in _PRODUCT:
            product_lines += num_lines(files)
            product_modules += len(files)
    typer.echo(f"| **{', '.join(_PRODUCT)}** | **{product_lines:,}** | **{product_modules}** |")
    typer.echo(f"\n{num_fields()} config fields")


if __name__ == "__main__":
    main()
