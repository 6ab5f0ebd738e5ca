"""What tests check about an error: type, code, key and value. errors.txt has all messages.

python -m tests.errors        # rewrite errors.txt after a message was changed
"""

import ast
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from xrec.errors import XRecError

_ROOT = Path(__file__).parents[1]
MESSAGES = Path(__file__).with_name("errors.txt")
_ANY = object()


@contextmanager
def raises(
    kind: type[XRecError], code: str, key: str | None = None, saw: Any = _ANY
) -> Iterator[pytest.ExceptionInfo[XRecError]]:
    """Fail unless the block raises exactly this error; what is not given is not compared."""
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    found = [type(error), error.code]
    assert found == [kind, code], f"{found}: {error}"
    assert key is None or error.key == key, error
    assert saw is _ANY or error.saw == saw, error


@functools.cache
def messages() -> str:
    """Return all errors that the product raises: file, type, code, and message with its fields."""
    texts = {path: path.read_text() for path in sorted((_ROOT / "xrec").rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items() if "Error(" in text}
    kinds = _kinds(trees.values())
    lines = []
    for path, tree in trees.items():
        found = [
            f"  {call.func.id} {_code(call)}: {_text(call.args[0])}"
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in kinds
            and call.args
        ]
        if found:
            lines += [str(path.relative_to(_ROOT)), *sorted(found)]
    return "\n".join(lines) + "\n"


def _kinds(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of XRecError and of all classes below it."""
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base) for base in node.bases} for node in classes}
    kinds = {XRecError.__name__}
    while more := {name for name in bases.keys() - kinds if bases[name] & kinds}:
        kinds |= more
    return kinds


def _code(call: ast.Call) -> str:
    """Return the code that a call gives its error; - if it gives none."""
    given = next((word.value for word in call.keywords if word.arg == "code"), None)
    return "-" if given is None else _text(given)


def _text(message: ast.expr) -> str:
    match message:
        case ast.Constant(str() as text):
            return " ".join(text.split())
        case ast.JoinedStr(parts):
            return "".join(_part(part) for part in parts)
        case ast.BinOp(left, ast.Add(), right):
            return _text(left) + _text(right)
    return "{" + ast.unparse(message) + "}"


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return "{" + ast.unparse(part.value) + "}"
    return str(ast.literal_eval(part)).replace("\n", " ")


if __name__ == "__main__":
    MESSAGES.write_text(messages())
