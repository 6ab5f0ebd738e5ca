"""The base of config classes, their validation, and how a mistake is described.

A message names the key, the value seen and what was expected. It never shows what stands in a
section with secrets, in whatever place.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from xrec.errors import ConfigError

_MOST_SHOWN = 200  # characters of a value
_PLAIN_KEY = re.compile(r"[a-z_]+")
_SECRETS = {"storage", "security"}  # the sections with secrets


class Config(BaseModel):
    """Base of every config class: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key; `keys` is its path in the file.

    `code` is pydantic's type of the error. For an unknown key, `known` holds the keys that are
    valid in its place. `saw` is None for a secret, and for a mapping or list, which may hold one.
    """

    keys: tuple[str, ...]
    code: str = "extra_forbidden"
    text: str = ""
    known: tuple[str, ...] = ()
    saw: Any = None

    @property
    def is_missing(self) -> bool:
        """Whether the key is required and not given."""
        return self.code == "missing"

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.keys) or "(top level)"

    def describe(self) -> str:
        """What is wrong and what to do, without the key's name."""
        if not self.known:
            return self.text
        return f"unknown key; {self.suggestion() or 'known keys: ' + ', '.join(self.known)}"

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
        raise config_error(source, {f"{each.name}: {each.describe()}": each for each in problems})
    return config


def validate(
    config_type: type[ConfigT], values: Mapping[str, Any]
) -> tuple[ConfigT | None, list[Problem]]:
    """The config of `values` and no problems, or no config and what is wrong with them."""
    try:
        return config_type.model_validate(values), []
    except ValidationError as error:
        return None, _problems(config_type, error.errors())


def config_error(source: str, problems: Mapping[str, Problem]) -> ConfigError:
    """The error that lists the lines of `problems`, each of which names a key and its problem."""
    listed = "\n".join(f"  {line}" for line in problems)
    first = next(iter(problems.values()))
    error = ConfigError(
        f"{source}: {len(problems)} problem(s)\n{listed}",
        code=first.code,
        key=first.name,
        saw=first.saw,
    )
    error.problems = {each.name: each.code for each in problems.values()}
    return error


def resolved_yaml(config: Config | Mapping[str, Config]) -> str:
    """The config with its defaults as YAML, or several under their names; secrets are masked."""
    values = (
        config.model_dump(mode="json")
        if isinstance(config, Config)
        else {name: each.model_dump(mode="json") for name, each in config.items()}
    )
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def sections_of(annotation: Any) -> tuple[type[Config], ...]:
    """The config classes in a field's type: one for a section, several for a union of sections."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return (annotation,)
    return tuple(section for each in get_args(annotation) for section in sections_of(each))


@dataclass(frozen=True)
class Key:
    """One key. `kind` is the kind of the section in which alone it stands, where kinds differ."""

    name: str
    field: FieldInfo
    kind: str | None = None


def keys_of(section: type[Config], prefix: str = "", kind: str | None = None) -> Iterator[Key]:
    """The keys of `section` by their dotted names and, behind each, those below it."""
    for name, field in section.model_fields.items():
        yield Key(f"{prefix}{name}", field, kind)
        inner = sections_of(field.annotation)
        for each in inner:
            own_kind = _tags(each)[0] if len(inner) > 1 else kind
            yield from keys_of(each, f"{prefix}{name}.", own_kind)


def _problems(config_type: type[Config], details: Sequence[Any]) -> list[Problem]:
    """A problem a key; a key of several types has a detail for each of them."""
    of_key: dict[tuple[str, ...], Any] = {}
    for detail in details:
        keys, _ = _walk(config_type, detail["loc"])
        before = f"{of_key[keys]['msg']}, or " if keys in of_key else ""
        of_key[keys] = {**detail, "msg": before + detail["msg"]}
    return [_problem(config_type, detail) for detail in of_key.values()]


def _problem(config_type: type[Config], detail: Any) -> Problem:
    keys, section = _walk(config_type, detail["loc"])
    is_secret = not _SECRETS.isdisjoint(keys)
    if detail["type"] == "missing":
        return Problem(keys, "missing", "required, and not given")
    if detail["type"] != "extra_forbidden":
        text = detail["msg"].removeprefix("Value error, ")
        if is_secret:
            return Problem(keys, detail["type"], text + ", saw a value that is not shown")
        value = detail["input"]
        saw = None if isinstance(value, Mapping | list | tuple) else value
        return Problem(keys, detail["type"], text + _shown_value(value), saw=saw)
    assert section is not None
    if is_secret and not _PLAIN_KEY.fullmatch(keys[-1]):  # {key:secret}, for example
        keys = (*keys[:-1], "(not shown)")
    return Problem(keys, known=tuple(section.model_fields))


def _walk(
    config_type: type[Config], location: Sequence[str | int]
) -> tuple[tuple[str, ...], type[Config] | None]:
    """The keys of pydantic's `location`, and the section that holds the last one.

    For a union of sections the location also has the tag of the chosen one, which is no key.
    """
    keys: list[str] = []
    inside: tuple[type[Config], ...] = (config_type,)
    around = None
    for part in location:
        if isinstance(part, str) and len(inside) > 1:
            inside = tuple(section for section in inside if part in _tags(section))
            continue
        keys.append(str(part))
        if isinstance(part, str):
            around = inside[0] if inside else None
            field = around.model_fields.get(part) if around else None
            inside = sections_of(field.annotation) if field else ()
            if field and not inside and _num_types(field.annotation) > 1:
                break  # what follows is the type that the value is not of
    return tuple(keys), around


def _num_types(annotation: Any) -> int:
    is_union = get_origin(annotation) in (Union, UnionType)
    return len({*get_args(annotation)} - {NoneType}) if is_union else 1


def _tags(section: type[Config]) -> tuple[str, ...]:
    kind = section.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _shown_value(value: Any) -> str:
    if isinstance(value, str | int | float | None):
        shown = repr(value)
        return f", saw {shown if len(shown) <= _MOST_SHOWN else shown[:_MOST_SHOWN] + '...'}"
    if isinstance(value, Mapping | list | tuple):
        return ""
    return f", saw a value of type {type(value).__name__}"
