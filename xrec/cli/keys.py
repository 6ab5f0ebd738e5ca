"""The keys of a job's config as a list for reading, made from the config class."""

import json
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from xrec.config.base import Key, keys_of, sections_of
from xrec.config.jobs import CONFIG_TYPES, SHARED

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}
_WIDTH = 96


def job_keys(job: str) -> str:
    """All keys of `job`: name, type, default and meaning; those shared with other jobs first."""
    keys = list(keys_of(CONFIG_TYPES[job]))
    shared = [key for key in keys if key.name.split(".")[0] in SHARED]
    own = [key for key in keys if key.name.split(".")[0] not in SHARED]
    return "\n".join(
        [
            "At the top level of the file, or in a section to override it for that job:",
            *(line for key in shared for line in _lines(key)),
            "",
            f"In the section {job}:",
            *(line for key in own for line in _lines(key)),
        ]
    )


def _lines(key: Key) -> Iterator[str]:
    only = f", with kind: {key.kind}" if key.kind else ""
    yield f"  {key.name}  ({_type(key.field.annotation)}{_default(key)}{only})"
    yield from textwrap.wrap(
        _meaning(key), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )


def _meaning(key: Key) -> str:
    """What the field says, or else the class of the section that it holds."""
    sections = sections_of(key.field.annotation)
    of_section = (sections[0].__doc__ or "") if len(sections) == 1 else ""
    return key.field.description or of_section.split("\n\n")[0]


def _type(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        words = [_type(each) for each in arguments if each is not type(None)]
        or_null = ["null"] if type(None) in arguments else []
        return " or ".join(dict.fromkeys([*words, *or_null]))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    return "section"


def _default(key: Key) -> str:
    default = key.field.default
    if key.field.is_required():
        return ", required"
    if default is PydanticUndefined or (sections_of(key.field.annotation) and default is not None):
        return ""
    return f", default {json.dumps(default)}"
