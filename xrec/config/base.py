"""The base class of all configuration, its validation, and the error that lists every wrong key.

A message gives the key, the value seen, and what was expected. Values in sections that hold
secrets are never shown.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from xrec.errors import ConfigError

_MAX_SHOWN = 200  # characters of a value
_PLAIN_KEY = re.compile(r"[a-z_]+")
_SECRETS = {"storage", "security"}  # the sections that hold secrets


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overlaid with `above`, key by key in mappings that both have."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


class Config(BaseModel):
    """Base of every config class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_sections(cls, values: Any) -> Any:
        """Take what a section does not give from the field's default, not from the class."""
        if not isinstance(values, Mapping):
            return values
        defaults = {
            name: field.default.model_dump(exclude_unset=True)
            for name, field in cls.model_fields.items()
            if isinstance(values.get(name), Mapping) and type(field.default) is field.annotation
        }
        return {**values, **{name: merged(defaults[name], values[name]) for name in defaults}}


ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Mistake:
    """A wrong key: its path, pydantic's type of the error, what is wrong, and the value seen.

    For an unknown key, `known` holds the keys that are valid there. `saw` is None for a secret,
    and for a mapping or a list, which may hold one.
    """

    keys: tuple[str, ...]
    code: str = "extra_forbidden"
    text: str = ""
    saw: Any = None
    known: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.keys) or "(top level)"

    def describe(self) -> str:
        """Return what is wrong and what to do, without the key's name."""
        if not self.known:
            return self.text
        hint = did_you_mean(self.keys[-1], self.known)
        return f"unknown key; {hint or 'known keys: ' + ', '.join(self.known)}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question with the known name that resembles `name`, or "" if none does."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def parse_config(
    config_type: type[ConfigT], values: Mapping[str, Any], source: str = "config"
) -> ConfigT:
    """Return the config of plain values. Raises ConfigError with a line for each wrong key."""
    config, mistakes = validate(config_type, values)
    if config is None:
        raise config_error(source, {f"{each.name}: {each.describe()}": each for each in mistakes})
    return config


def validate(
    config_type: type[ConfigT], values: Mapping[str, Any]
) -> tuple[ConfigT | None, list[Mistake]]:
    """Return the config of `values` and no mistakes, or None and what is wrong."""
    try:
        return config_type.model_validate(values), []
    except ValidationError as error:
        return None, _mistakes(config_type, error.errors(include_url=False))


def config_error(source: str, mistakes: Mapping[str, Mistake]) -> ConfigError:
    """Return the error that lists the lines of `mistakes`; its code and key are the first one's."""
    lines = "\n".join(f"  {line}" for line in mistakes)
    first = next(iter(mistakes.values()))
    error = ConfigError(
        f"{source}: {len(mistakes)} problem(s)\n{lines}",
        code=first.code,
        key=first.name,
        saw=first.saw,
    )
    error.problems = {each.name: each.code for each in mistakes.values()}
    return error


def resolved_yaml(config: Config | Mapping[str, Config]) -> str:
    """Return a config, or several by name, as YAML with all defaults; secrets are masked."""
    values = (
        config.model_dump(mode="json")
        if isinstance(config, Config)
        else {name: each.model_dump(mode="json") for name, each in config.items()}
    )
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def sections_of(annotation: Any) -> tuple[type[Config], ...]:
    """Return the config classes in a field's type: one for a section, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return (annotation,)
    return tuple(section for each in get_args(annotation) for section in sections_of(each))


@dataclass(frozen=True)
class Key:
    """A key by its dotted name. `kind` is set where only one kind of a section has the key."""

    name: str
    field: FieldInfo
    default: Any
    kind: str | None = None


def keys_of(
    section: type[Config], prefix: str = "", kind: str | None = None, defaults: Any = None
) -> Iterator[Key]:
    """Yield the keys of a section, each followed by the keys below it."""
    for name, field in section.model_fields.items():
        default = getattr(defaults, name, field.default)
        yield Key(f"{prefix}{name}", field, default, kind)
        inner = sections_of(field.annotation)
        for each in inner:
            its_kind = _tags(each)[0] if len(inner) > 1 else kind
            its_default = default if isinstance(default, each) else None
            yield from keys_of(each, f"{prefix}{name}.", its_kind, its_default)


def _mistakes(config_type: type[Config], details: Iterable[Any]) -> list[Mistake]:
    """Return one mistake per key; pydantic reports each type of a union by itself."""
    by_key: dict[tuple[str, ...], Any] = {}
    for detail in details:
        keys, section = _key_path(config_type, detail["loc"])
        before = f"{by_key[keys]['msg']}, or " if keys in by_key else ""
        by_key[keys] = {**detail, "msg": before + detail["msg"], "section": section}
    return [_mistake(keys, detail) for keys, detail in by_key.items()]


def _mistake(keys: tuple[str, ...], detail: Mapping[str, Any]) -> Mistake:
    code, is_secret = detail["type"], not _SECRETS.isdisjoint(keys)
    if code == "missing":
        return Mistake(keys, code, "required, and not given")
    if code == "extra_forbidden":
        if is_secret and not _PLAIN_KEY.fullmatch(keys[-1]):  # {key:secret}, for example
            keys = (*keys[:-1], "(not shown)")
        return Mistake(keys, known=tuple(detail["section"].model_fields))
    text = detail["msg"].removeprefix("Value error, ")
    if is_secret:
        return Mistake(keys, code, f"{text}, saw a value that is not shown")
    value = detail["input"]
    if isinstance(value, Mapping | list | tuple):
        return Mistake(keys, code, text)
    return Mistake(keys, code, f"{text}, saw {_shown(value)}", value)


def _key_path(
    config_type: type[Config], location: Sequence[str | int]
) -> tuple[tuple[str, ...], type[Config] | None]:
    """Return the keys of pydantic's `location`, and the section that holds the last one.

    A location also has the tag of a union's section, and the type that a plain value is not of.
    """
    keys: list[str] = []
    inside: tuple[type[Config], ...] = (config_type,)
    holder, is_name = None, False  # whether the next part is a name in a mapping of sections
    for part in location:
        if isinstance(part, int) or is_name:
            keys.append(str(part))
            is_name = False
        elif len(inside) > 1:
            inside = tuple(section for section in inside if part in _tags(section))
        else:
            keys.append(part)
            holder = inside[0] if inside else None
            field = holder.model_fields.get(part) if holder else None
            inside = sections_of(field.annotation) if field else ()
            origin = get_origin(field.annotation) if field else None
            is_name = bool(inside) and isinstance(origin, type) and issubclass(origin, Mapping)
            if field and not inside and _num_types(field.annotation) > 1:
                break  # what follows is a type that the value is not of
    return tuple(keys), holder


def _num_types(annotation: Any) -> int:
    is_union = get_origin(annotation) in (Union, UnionType)
    return len({*get_args(annotation)} - {NoneType}) if is_union else 1


def _tags(section: type[Config]) -> tuple[str, ...]:
    kind = section.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _shown(value: Any) -> str:
    if not isinstance(value, str | int | float | None):
        return f"a value of type {type(value).__name__}"
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
