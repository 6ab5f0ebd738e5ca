"""The jobs of a project file with their config classes, and each key's places and meaning."""

import functools
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined, to_jsonable_python

from xrec.config.annotate import AnnotateConfig
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.base import Key, keys_of, sections_of
from xrec.config.data import BuildSampleLLMConfig, PrepareConfig
from xrec.config.job import JobConfig
from xrec.config.lab import CompareConfig, EvaluateConfig
from xrec.config.serve import ServeConfig
from xrec.config.train import (
    NeighborsConfig,
    PretrainGraphConfig,
    TrainAdapterConfig,
)

CONFIG_TYPES: Mapping[str, type[JobConfig]] = {
    "build-sample-llm": BuildSampleLLMConfig,
    "annotate": AnnotateConfig,
    "prepare": PrepareConfig,
    "pretrain-graph": PretrainGraphConfig,
    "neighbors": NeighborsConfig,
    "train-adapter": TrainAdapterConfig,
    "recommend": RecommendConfig,
    "backfill": BackfillConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "serve": ServeConfig,
}
"""The jobs, in the order of the pipeline, each with its config class."""

SHARED = ("workspace", "storage", "ray", "llm", "prompt", "decoding", "workers", "artifacts")
"""The keys at the top level of a project file."""

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}
_WIDTH = 90


@functools.cache
def places() -> Mapping[str, str]:
    """Return the dotted name of each key in a project file, and what to add to it in a message."""
    found = dict.fromkeys(CONFIG_TYPES, "")
    for job in CONFIG_TYPES:
        own, shared = own_and_shared(job)
        found |= {key.name: key.condition for key in shared}
        found |= {f"{job}.{key.name}": key.condition for key in own}
    return found | dict.fromkeys(SHARED, " at the top level of the file")


def own_and_shared(job: str) -> tuple[list[Key], list[Key]]:
    """Return the keys of the section of `job`, and those at the top level of the file."""
    own: list[Key] = []
    shared: list[Key] = []
    for key in keys_of(CONFIG_TYPES[job]):
        (shared if key.name.split(".")[0] in SHARED else own).append(key)
    return own, shared


def job_keys(job: str, words: Sequence[str] = ()) -> str:
    """Return a text with the name, type, default, and meaning of each key of `job`.

    With `words`, it has only the keys whose name or meaning contains one of them.
    """
    own, shared = (
        [line for key in keys if _has_a_word(key, words) for line in _lines(key)]
        for keys in own_and_shared(job)
    )
    if not own and not shared:
        return f"no key of {job} contains {' or '.join(map(repr, words))}"
    top = "At the top level of the file, or in a job's section to override it for that job:"
    parts = [top, *shared, ""] if shared else []
    return "\n".join([*parts, f"In the section {job}:", *own] if own else parts[:-1])


def _has_a_word(key: Key, words: Sequence[str]) -> bool:
    text = f"{key.name} {meaning(key)}".lower()
    return not words or any(word.lower() in text for word in words)


def _lines(key: Key) -> Iterator[str]:
    yield f"  {key.name}  ({type_and_default(key)})"
    yield from textwrap.indent(textwrap.fill(meaning(key), _WIDTH), " " * 6).splitlines()


def type_and_default(key: Key) -> str:
    """Return, for example, `integer, default 3, with kind: sample`."""
    return f"{_type(key.field.annotation)}{_default(key)}{key.condition}"


def _default(key: Key) -> str:
    if key.field.is_required():
        return ", required"
    is_section = sections_of(key.field.annotation) and key.default is not None
    if key.default is PydanticUndefined or is_section:
        return ""
    return f", default {json.dumps(to_jsonable_python(key.default))}"


def meaning(key: Key) -> str:
    """Return the field's description, or else the start of its section's docstring."""
    sections = sections_of(key.field.annotation)
    of_section = (sections[0].__doc__ or "") if len(sections) == 1 else ""
    return key.field.description or of_section.split("\n\n")[0]


def _type(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        words = [_type(each) for each in arguments if each is not NoneType]
        or_null = ["null"] if NoneType in arguments else []
        return " or ".join(dict.fromkeys([*words, *or_null]))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    return "section"
