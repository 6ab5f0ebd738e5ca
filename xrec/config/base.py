"""The base of config classes, their validation, and how a mistake is described.

A message names the key, the value seen and what was expected. It never shows a value that may be
a secret: a `SecretStr`, a field with `repr=False`, or what stands in the place of a section with
such fields.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from xrec.errors import ConfigError

_MOST_SHOWN = 200
_PLAIN_KEY = re.compile(r"[a-z_]+")


class Config(BaseModel):
    """Base of every config class: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )


ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Problem:
    """A mistake in the values of a config.

    `keys` is the path of the key as it stands in the file. `known` holds the keys that could stand
    in the place of an unknown one, and `text` says what is wrong with a value.
    """

    keys: tuple[str, ...]
    kind: Literal["unknown", "missing", "value"]
    text: str = ""
    known: tuple[str, ...] = ()

    @property
    def dotted(self) -> str:
        """The key's path, joined by dots."""
        return ".".join(self.keys) or "(top level)"

    def describe(self) -> str:
        """What is wrong and what to do, without the key's name."""
        if self.kind == "unknown":
            return f"unknown key; {self.suggestion() or 'known keys: ' + ', '.join(self.known)}"
        if self.kind == "missing":
            return "required, and not given"
        return self.text

    def suggestion(self) -> str:
        """A known key that resembles the unknown one, as a question; empty if none does."""
        close = difflib.get_close_matches(self.keys[-1], self.known, n=1)
        return f"did you mean {close[0]!r}?" if close else ""


def parse_config(
    config_type: type[ConfigT], values: Mapping[str, Any], source: str = "config"
) -> ConfigT:
    """Validate plain values; raises ConfigError with one line for each wrong key."""
    config, problems = validate(config_type, values)
    if config is None:
        raise config_error(
            source, [f"{problem.dotted}: {problem.describe()}" for problem in problems]
        )
    return config


def validate(
    config_type: type[ConfigT], values: Mapping[str, Any]
) -> tuple[ConfigT | None, list[Problem]]:
    """The config of `values` and no problems, or no config and what is wrong with them."""
    try:
        return config_type.model_validate(values), []
    except ValidationError as error:
        return None, [_problem(config_type, detail) for detail in error.errors()]


def config_error(source: str, lines: Sequence[str]) -> ConfigError:
    """The error that lists `lines`, each of which names a key and what is wrong with it."""
    listed = "\n".join(f"  {line}" for line in lines)
    return ConfigError(f"{source}: {len(lines)} problem(s)\n{listed}")


def resolved_yaml(config: Config) -> str:
    """The whole config with its defaults, as YAML; secrets are masked."""
    return _dumped(config.model_dump(mode="json"))


def as_yaml(configs: Mapping[str, Config]) -> str:
    """Several configs, each under its name, as `resolved_yaml`."""
    return _dumped({name: config.model_dump(mode="json") for name, config in configs.items()})


def _dumped(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def sections_of(annotation: Any) -> tuple[type[Config], ...]:
    """The config classes in a field's type: one for a section, several for a union of sections."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return (annotation,)
    return tuple(section for each in get_args(annotation) for section in sections_of(each))


def holds_secret(field: FieldInfo) -> bool:
    """True if the field's value may be, or contain, a secret."""
    if not field.repr or _mentions_secret(field.annotation):
        return True
    return any(
        holds_secret(inner)
        for section in sections_of(field.annotation)
        for inner in section.model_fields.values()
    )


def _mentions_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_mentions_secret, get_args(annotation)))


def _problem(config_type: type[Config], detail: Any) -> Problem:
    keys, sections, fields = _walk(config_type, detail["loc"])
    if detail["type"] == "extra_forbidden":
        if text := _of_another_kind(config_type, detail["loc"]):
            return Problem(tuple(keys), "value", text)
        known = sorted({name for section in sections for name in section.model_fields})
        return Problem((*keys[:-1], _shown_key(keys[-1], sections)), "unknown", known=tuple(known))
    if detail["type"] == "missing":
        return Problem(tuple(keys), "missing")
    text = detail["msg"].removeprefix("Value error, ")
    return Problem(tuple(keys), "value", text + _shown_value(detail["input"], fields))


def _walk(
    config_type: type[Config], location: Sequence[str | int]
) -> tuple[list[str], tuple[type[Config], ...], list[FieldInfo]]:
    """The keys of pydantic's `location`, the sections that hold the last one, and its fields.

    For a union of sections the location also has the tag of the chosen one, which is no key.
    """
    keys: list[str] = []
    inside: tuple[type[Config], ...] = (config_type,)
    around, fields = inside, []
    for part in location:
        found = [
            section.model_fields[str(part)]
            for section in inside
            if str(part) in section.model_fields
        ]
        tagged = tuple(section for section in inside if not found and part in _tags(section))
        if tagged:
            inside = tagged
            continue
        keys.append(str(part))
        if isinstance(part, int):
            continue
        around, fields = inside, found
        inside = tuple(each for field in found for each in sections_of(field.annotation))
    return keys, around, fields


def _of_another_kind(config_type: type[Config], location: Sequence[str | int]) -> str:
    """What is wrong with a key that stands in another section of a union; empty if none has it."""
    *before, tag, key = ["", "", *location]
    _, _, fields = _walk(config_type, before[2:])
    sections = [each for field in fields for each in sections_of(field.annotation)]
    chosen = [section for section in sections if tag in _tags(section)]
    others = [_tags(section)[0] for section in sections if str(key) in section.model_fields]
    if not chosen or not others:
        return ""
    return (
        f"goes with kind: {', '.join(others)}, and this section has kind: {tag}; give the section "
        f"as a whole, for example {before[-1]}='{{kind: {tag}, ...}}' on the command line"
    )


def _tags(section: type[Config]) -> tuple[str, ...]:
    kind = section.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _shown_key(key: str, sections: Sequence[type[Config]]) -> str:
    """A secret that stands by mistake where a key belongs (`{key:secret}`) is not shown."""
    beside_secrets = any(
        holds_secret(field)
        for section in sections
        for field in section.model_fields.values()
        if not sections_of(field.annotation)
    )
    return "(not shown)" if beside_secrets and not _PLAIN_KEY.fullmatch(key) else key


def _shown_value(value: Any, fields: Sequence[FieldInfo]) -> str:
    if any(map(holds_secret, fields)):
        return ", saw a value that is not shown"
    if isinstance(value, str | int | float | None):
        shown = repr(value)
        return f", saw {shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + '...'}"
    if isinstance(value, Mapping | list | tuple):
        return ""
    return f", saw a value of type {type(value).__name__}"
