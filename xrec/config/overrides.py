"""`section.key=value` from the command line: what an argument says, and what it changes.

An argument may hold a secret. A message shows its key only, and only if it looks like a key.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xrec.config.yaml_text import parse_yaml
from xrec.errors import ConfigError

_KEY = re.compile(r"[a-z][a-z0-9_-]{0,40}(\.[a-z0-9][a-z0-9_-]{0,40})*")


@dataclass(frozen=True)
class Override:
    """One argument: the path of a key, and its new value."""

    keys: tuple[str, ...]
    value: Any

    @property
    def dotted(self) -> str:
        """The key as it was given."""
        return ".".join(self.keys)

    def applied_to(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `values` with the key replaced; raises ConfigError if it lies below a value."""
        return _with_value(values, self.keys, self)


def parse_overrides(arguments: Sequence[str], names: Collection[str]) -> list[Override]:
    """The overrides in `arguments`; `names` are the names of all keys.

    Raises ConfigError for an argument that is not `section.key=value`.
    """
    return [_parse(text, number, names) for number, text in enumerate(arguments, start=1)]


def _parse(text: str, number: int, names: Collection[str]) -> Override:
    key, separator, value = text.partition("=")
    if not separator or not _KEY.fullmatch(key):
        shown = f" {key!r}" if not separator and set(key.split(".")) <= set(names) else ""
        raise ConfigError(
            f"override {number}{shown}: expected section.key=value, "
            "for example training.num_epochs=3"
        )
    return Override(tuple(key.split(".")), parse_yaml(value, f"override {key!r}: the value"))


def _with_value(
    values: Mapping[str, Any], keys: Sequence[str], override: Override
) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**values, head: override.value}
    section = values.get(head)
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"override {override.dotted!r}: {head!r} holds a value, and is not a section"
        )
    return {**values, head: _with_value(section, rest, override)}
