"""Plain values from YAML files, and from `section.key=value` on the command line.

Any value may be a secret, so an error gives the line and the column, or the key if it looks like
one, and never shows the text itself.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xrec.errors import ConfigError

_KEY = re.compile(r"[a-z][a-z0-9_-]{0,40}(\.[a-z0-9][a-z0-9_-]{0,40})*")
_WORD = re.compile(r"[\w-]+")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader that refuses duplicate keys in a mapping; PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen and key.value != "<<":
                name = f"key {key.value!r}" if _WORD.fullmatch(key.value) else "a key"
                raise yaml.constructor.ConstructorError(
                    problem=f"{name} appears twice in the same mapping", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`. Raises ConfigError if there is none."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(
            f"config file {str(path)!r} cannot be read ({error.strerror}); "
            "give a project's YAML file, see configs/",
            code="unreadable_file",
            key=str(path),
            saw=error.strerror,
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path}: not a text file in UTF-8; give a project's YAML file",
            code="not_utf8",
            key=str(path),
        ) from None
    if not isinstance(values, dict):
        saw = "an empty file" if values is None else type(values).__name__
        raise ConfigError(
            f"{path}: expected a mapping of keys to values, saw {saw}; see configs/",
            code="not_a_mapping",
            key=str(path),
            saw=saw,
        )
    return values


def lines_of_keys(path: Path) -> dict[tuple[str, ...], int]:
    """Return the line number of each key in the YAML file at `path`, by its path of keys."""
    lines: dict[tuple[str, ...], int] = {}
    seen: set[int] = set()

    def add(node: yaml.Node | None, above: tuple[str, ...]) -> None:
        if id(node) in seen:  # an alias, which may also lead back to a node above
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                keys = (*above, str(key.value))
                lines[keys] = key.start_mark.line + 1
                add(value, keys)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                add(value, (*above, str(index)))

    add(yaml.compose(path.read_text(encoding="utf-8"), _Loader), ())
    return lines


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of `text`. Raises ConfigError with `source`, line, and column."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{source}: invalid YAML{_where_and_why(error)}", code="invalid_yaml", key=source
        ) from None


def _where_and_why(error: Exception) -> str:
    """Return PyYAML's description of the problem without names of aliases, anchors, and tags."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return ""
    mark, problem = error.problem_mark or error.context_mark, error.problem or "cannot be read"
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "appears twice" not in problem:
        problem = re.sub(r"'[^'<]{2,}'", "'...'", problem)
    return f"{place}: {problem}"


@dataclass(frozen=True)
class Override:
    """An override argument: the path of a key, and its new value."""

    keys: tuple[str, ...]
    value: Any

    @property
    def dotted(self) -> str:
        """The dotted key."""
        return ".".join(self.keys)

    def applied_to(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return `values` with the key replaced. Raises ConfigError if a parent is a value."""
        changed = dict(values)
        section = changed
        for key in self.keys[:-1]:
            below = section.get(key)
            if not isinstance(below, Mapping | None):
                raise ConfigError(
                    f"override {self.dotted!r}: {key!r} is a value, not a section",
                    code="not_a_section",
                    key=self.dotted,
                )
            section[key] = section = dict(below or {})
        section[self.keys[-1]] = self.value
        return changed


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Return the overrides. Raises ConfigError for an argument other than `section.key=value`."""
    return [_parse(text, number) for number, text in enumerate(arguments, start=1)]


def _parse(text: str, number: int) -> Override:
    key, separator, value = text.partition("=")
    if not separator or not _KEY.fullmatch(key):
        raise ConfigError(
            f"override {number}: expected section.key=value, for example training.num_epochs=3",
            code="not_an_override",
            saw=number,
        )
    return Override(tuple(key.split(".")), parse_yaml(value, f"override {key!r}: the value"))
