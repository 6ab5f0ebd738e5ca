"""The base class of all configs, the types of their URIs, and the error that lists wrong keys.

A message gives the key, the value seen, and what was expected. Values in sections that hold
secrets are never shown.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, to_jsonable_python

from xrec.errors import ConfigError

SHARED_DISKS = {"is_elsewhere": True}
"""The validation context that refuses relative paths, for a config that another machine reads."""
_MAX_SHOWN = 200  # characters of a value
_MAX_PLACES = 4
_PLAIN_KEY = re.compile(r"[a-z_]+")
_SECRETS = {"storage", "keys"}  # the sections that hold secrets


def absolute(uri: str) -> str:
    """Return `uri`, made absolute if it is a local path, for use from any working directory."""
    is_url = "://" in uri or uri.startswith("s3:/")
    return uri if is_url else os.path.abspath(os.path.expanduser(uri))


def _absolute_uri(uri: str, info: ValidationInfo) -> str:
    if info.context == SHARED_DISKS and not os.path.isabs(uri) and absolute(uri) != uri:
        raise PydanticCustomError(
            "relative_path",
            "relative path: a submitted job runs in a temporary working directory of its own; "
            "give an s3:// URI, or an absolute path on a disk that all nodes share",
        )
    return absolute(uri)


def _absolute_if_folder(name: str, info: ValidationInfo) -> str:
    # Both a language model's folder and a hub ID may look like a/b.
    is_folder = name.startswith((".", "~")) or os.path.isdir(name)
    return _absolute_uri(name, info) if is_folder else name


Uri = Annotated[str, AfterValidator(_absolute_uri)]
"""A local path, which validation makes absolute, or another URI."""
ModelName = Annotated[str, AfterValidator(_absolute_if_folder)]
"""A hub ID, pypi:NAME, or the URI of a folder."""


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` overlaid with `above`, key by key in mappings that both have."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def with_defaults(defaults: Mapping[str, Any]) -> BeforeValidator:
    """Return a validator that fills in a mapping's missing keys, and refuses unknown ones."""

    def complete(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if unknown := sorted(values.keys() - defaults.keys()):
            raise ValueError(f"unknown keys {unknown}; expected some of {', '.join(defaults)}")
        return {**defaults, **values}

    return BeforeValidator(complete)


class Config(BaseModel):
    """Base of every config class: immutable, and rejects unknown keys."""

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
        """Fill in a section's missing keys from the field's default, not from the class."""
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
    """A wrong key: its path, pydantic's error type, what is wrong, and the value seen.

    `saw` is None for a secret, and for a mapping or a list, which may contain one. `line` is the
    key's line in its file, if it is in one.
    """

    keys: tuple[str, ...]
    code: str
    text: str
    saw: Any = None
    line: int | None = None

    @property
    def name(self) -> str:
        """The dotted key."""
        return ".".join(self.keys) or "(top level)"

    @property
    def is_unknown(self) -> bool:
        """Whether there is no such key."""
        return self.code == "extra_forbidden"

    def __str__(self) -> str:
        return f"{f'line {self.line}: ' if self.line else ''}{self.name}: {self.text}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question with the known name closest to `name`, or "" if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def unknown_key(keys: Sequence[str], places: Mapping[str, str]) -> str:
    """Return what to say about an unknown key: where keys of its name, or a close one, belong.

    `places` has each known key's dotted name, and what to add to it.
    """
    names = [place.rpartition(".")[2] for place in places]
    close = difflib.get_close_matches(keys[-1], dict.fromkeys(names), n=1)
    same = [place for place, name in zip(places, names, strict=True) if name in close]
    nearest = difflib.get_close_matches(".".join(keys), same, n=_MAX_PLACES, cutoff=0)
    listed = " or ".join(f"{place}{places[place]}" for place in nearest)
    return f"unknown key; {f'did you mean {listed}?' if listed else 'see xrec JOB --keys'}"


def parse_config(
    config_type: type[ConfigT], values: Mapping[str, Any], source: str = "config"
) -> ConfigT:
    """Return the config in plain `values`. Raises ConfigError with a line for each wrong key."""
    config, mistakes = validate(config_type, values)
    if config is None:
        places = {key.name: key.condition for key in keys_of(config_type)}
        raise config_error(source, mistakes, places)
    return config


def validate(
    config_type: type[ConfigT], values: Mapping[str, Any], context: Mapping[str, Any] | None = None
) -> tuple[ConfigT | None, list[Mistake]]:
    """Return the config in `values` and an empty list, or None and the mistakes."""
    try:
        return config_type.model_validate(values, context=context), []
    except ValidationError as error:
        details: dict[tuple[str, ...], Any] = {}
        for detail in error.errors(include_url=False):
            keys = _keys_at(values, detail["loc"], is_missing=detail["type"] == "missing")
            before = f"{details[keys]['msg']}, or " if keys in details else ""  # types of a union
            details[keys] = {**detail, "msg": before + detail["msg"]}
        return None, [_mistake(*each) for each in details.items()]


def config_error(
    source: str, mistakes: Sequence[Mistake], places: Mapping[str, str]
) -> ConfigError:
    """Return an error that lists the mistakes, with the code and key of the first.

    `places` are those of the known keys (`unknown_key`).
    """
    texts = [
        replace(each, text=unknown_key(each.keys, places)) if each.is_unknown else each
        for each in mistakes
    ]
    lines, first = "\n".join(f"  {each}" for each in texts), mistakes[0]
    error = ConfigError(
        f"{source}: {len(mistakes)} problem(s)\n{lines}",
        code=first.code,
        key=first.name,
        saw=first.saw,
    )
    error.problems = {mistake.name: mistake.code for mistake in mistakes}
    return error


def resolved_yaml(config: Config | Mapping[str, Config]) -> str:
    """Return a config, or several by name, as YAML with all defaults; secrets are masked."""
    values = to_jsonable_python(config)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def sections_of(annotation: Any) -> tuple[type[Config], ...]:
    """Return the config classes in a field's type: one for a section, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return (annotation,)
    return tuple(section for each in get_args(annotation) for section in sections_of(each))


@dataclass(frozen=True)
class Key:
    """A key and its dotted name; `condition` is set if only one kind of the section has the key."""

    name: str
    field: FieldInfo
    default: Any
    condition: str = ""


def keys_of(
    section: type[Config], prefix: str = "", condition: str = "", defaults: Any = None
) -> Iterator[Key]:
    """Yield the keys of a section, each followed by the keys below it."""
    for name, field in section.model_fields.items():
        default = getattr(defaults, name, field.default)
        yield Key(f"{prefix}{name}", field, default, condition)
        inner = sections_of(field.annotation)
        for each in inner:
            kinds = get_args(getattr(each.model_fields.get("kind"), "annotation", None))
            is_one_of_several = len(inner) > 1 and len(kinds) == 1
            only = f", with kind: {kinds[0]}" if is_one_of_several else condition
            below = default if isinstance(default, each) else None
            yield from keys_of(each, f"{prefix}{name}.", only, below)


def child(values: Any, key: str | int) -> Any:
    """Return the value at a key or an index of nested plain values, or None if there is none."""
    if isinstance(values, Mapping):
        return values.get(key)
    is_index = isinstance(values, list | tuple) and str(key).isdigit() and int(key) < len(values)
    return values[int(key)] if is_index else None


def _keys_at(values: Any, location: Sequence[str | int], *, is_missing: bool) -> tuple[str, ...]:
    """Return the keys in pydantic's `location`, without the union types and kinds in it."""
    keys: list[str] = []
    for number, part in enumerate(location, start=1):
        is_key = isinstance(values, list | tuple) or (
            isinstance(values, Mapping) and part in values
        )
        if is_key or (is_missing and number == len(location)):
            keys.append(str(part))
            values = child(values, part)
    return tuple(keys)


def _mistake(keys: tuple[str, ...], detail: Mapping[str, Any]) -> Mistake:
    code, value, is_secret = detail["type"], detail["input"], not _SECRETS.isdisjoint(keys)
    if code == "missing":
        return Mistake(keys, code, "required, but not given")
    if code == "extra_forbidden":
        if is_secret and not _PLAIN_KEY.fullmatch(keys[-1]):  # {key:secret}, for example
            keys = (*keys[:-1], "(not shown)")
        return Mistake(keys, code, "unknown key")
    text, meant = detail["msg"].removeprefix("Value error, "), ""
    if code == "union_tag_invalid":
        keys, value, kinds = (*keys, "kind"), detail["ctx"]["tag"], detail["ctx"]["expected_tags"]
        text, meant = f"Input should be one of {kinds}", did_you_mean(value, _quoted(kinds))
    elif code == "literal_error" and isinstance(value, str):
        meant = did_you_mean(value, _quoted(detail["ctx"]["expected"]))
    if is_secret:
        return Mistake(keys, code, f"{text}, saw a value that is not shown")
    if isinstance(value, Mapping | list | tuple):
        return Mistake(keys, code, text)
    return Mistake(keys, code, f"{text}, saw {_shown(value)}{meant and f'; {meant}'}", value)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _shown(value: Any) -> str:
    if not isinstance(value, str | int | float | None):
        return f"a value of type {type(value).__name__}"
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
