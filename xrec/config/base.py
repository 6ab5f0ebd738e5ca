"""How a config is read: YAML values, `section.key=value` overrides, one validation, one error style.

YAML holds values, never class paths. An override goes through the same validation as the file.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.errors import ConfigError


class Config(BaseModel):
    """Base of every config class: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(
    config_type: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()
) -> ConfigT:
    """Read the YAML file at `path`, apply `section.key=value` overrides, validate.

    Raises ConfigError naming the file, the key, the value seen and what was expected.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        values = _with_override(values, override)
    return parse_config(config_type, values, source=str(path))


def parse_config(
    config_type: type[ConfigT], values: Mapping[str, Any], source: str = "config"
) -> ConfigT:
    """Validate plain values; raises ConfigError with one line for each wrong key."""
    try:
        return config_type.model_validate(values)
    except ValidationError as error:
        lines = [_describe(config_type, detail) for detail in error.errors()]
        raise ConfigError(
            f"{source}: {len(lines)} problem(s)\n" + "\n".join(f"  {line}" for line in lines)
        ) from error


def resolved_yaml(config: Config) -> str:
    """The whole config with its defaults, as YAML; secrets are masked."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"config file {str(path)!r} cannot be read ({error.strerror}); give a YAML file, see configs/"
        ) from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of keys to values, saw {type(values).__name__}"
        )
    return values


def _with_override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"override {override!r}: expected section.key=value, for example training.num_epochs=3"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    return _with_value(values, key.split("."), value, override)


def _with_value(
    values: Mapping[str, Any], keys: Sequence[str], value: Any, override: str
) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**values, head: value}
    section = values.get(head)
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"override {override!r}: {head!r} holds the value {section!r}, not a section"
        )
    return {**values, head: _with_value(section, rest, value, override)}


def _describe(config_type: type[Config], detail: Any) -> str:
    keys = [str(key) for key in detail["loc"]]
    place = ".".join(keys) or "(top level)"
    if detail["type"] == "extra_forbidden":
        known = _known_keys(config_type, keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"{place}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{place}: required, and not given"
    return f"{place}: {detail['msg']}, saw {detail['input']!r}"


def _known_keys(config_type: type[Config], path: Sequence[str]) -> list[str]:
    """The field names of the section at `path`; of every member where the section is a union."""
    sections: list[type[Config]] = [config_type]
    for key in path:
        annotations = [
            section.model_fields[key].annotation
            for section in sections
            if key in section.model_fields
        ]
        members = [
            member
            for annotation in annotations
            for member in (get_args(annotation) or (annotation,))
        ]
        found = [
            member for member in members if isinstance(member, type) and issubclass(member, Config)
        ]
        sections = (
            found or sections
        )  # a union's tag ("kind" value) stands in the path, but is no field
    return sorted({name for section in sections for name in section.model_fields})
