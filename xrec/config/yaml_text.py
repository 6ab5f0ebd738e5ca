"""YAML from files and from the command line, with errors that never show the text they are about.

The text may hold a secret, so an error names the line and the column, and not what stands there.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from xrec.errors import ConfigError

_WORD = re.compile(r"[\w-]+")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice in a mapping; YAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key in seen and key != "<<":
                name = f"key {key!r}" if _WORD.fullmatch(key) else "a key"
                raise yaml.constructor.ConstructorError(
                    problem=f"{name} stands twice in the same mapping",
                    problem_mark=key_node.start_mark,
                )
            if key is not None:
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path`; raises ConfigError if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"config file {str(path)!r} cannot be read ({error.strerror}); "
            "give a project's YAML file, see configs/"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8; give a project's YAML file") from None
    values = parse_yaml(text, str(path))
    if values is None:
        raise ConfigError(f"{path}: the file is empty; give a project's YAML file, see configs/")
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys to values, saw {type(values).__name__}"
        )
    return values


def parse_yaml(text: str, source: str) -> Any:
    """The value of `text`; raises ConfigError naming `source`, line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{source}: not valid YAML{place}: {_without_text(error.problem)}"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{source}: not valid YAML") from None


def _without_text(problem: str | None) -> str:
    """PyYAML's description of the problem without names of aliases, anchors and tags."""
    if problem is None:
        return "it cannot be read"
    if "stands twice" in problem:
        return problem
    return re.sub(r"'[^'<]{2,}'", "'...'", problem)
