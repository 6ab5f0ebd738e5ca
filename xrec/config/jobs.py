"""The jobs of a project file with the classes of their configs; their keys, and where each may
stand.
"""

import functools
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.annotate import AnnotateConfig
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.base import Key, Problem, keys_of, sections_of
from xrec.config.compare import CompareConfig
from xrec.config.data import BuildSampleLLMConfig, PrepareConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.graph import PretrainGraphConfig, TrainAspectsConfig
from xrec.config.serve import ServeConfig
from xrec.config.shared import JobConfig

CONFIG_TYPES: Mapping[str, type[JobConfig]] = {
    "build-sample-llm": BuildSampleLLMConfig,
    "annotate": AnnotateConfig,
    "prepare": PrepareConfig,
    "pretrain-graph": PretrainGraphConfig,
    "train-aspects": TrainAspectsConfig,
    "train-adapter": TrainAdapterConfig,
    "recommend": RecommendConfig,
    "backfill": BackfillConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "serve": ServeConfig,
}
"""The jobs, in the order of the pipeline, each with the class of its config."""

ARTIFACTS = (
    "annotations",
    "dataset",
    "graph",
    "aspects",
    "adapter",
    "recommendations",
    "explanations",
    "evaluation",
    "comparison",
)
SHARED = (
    "workspace",
    "storage",
    "ray",
    "llm",
    "prompt",
    "decoding",
    "scaling",
    *ARTIFACTS,
)
"""The keys that stand at the top level of a project file."""

_MOST_PLACES = 4
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}
_WIDTH = 96


def described(problem: Problem, job: str | None = None) -> str:
    """What is wrong with a key of `job`; for a known key in a wrong place, its right places."""
    found = key_places().get(problem.keys[-1], ()) if problem.known else ()
    hint = problem.suggestion() if found else ""
    if not found or (hint and len(problem.keys) > 1):
        return problem.describe()
    of_this_job = [place for place in found if job and place.startswith(f"{job}.")]
    where = f"{problem.keys[-1]} stands in {_listed(of_this_job or found)}"
    return f"unknown key; {hint} {where}" if hint else f"unknown key in this place; {where}"


def with_job_names(keys: Sequence[str]) -> str:
    """The places of a key that was given without a job's name, or else the names of the jobs."""
    ending = f".{'.'.join(keys)}"
    found = [
        place
        for place in key_places().get(keys[-1], ())
        if place.endswith(ending) and place.removesuffix(ending) in CONFIG_TYPES
    ]
    return f": {_listed(found)}" if found else f"; the jobs are {', '.join(CONFIG_TYPES)}"


@functools.cache
def key_places() -> Mapping[str, tuple[str, ...]]:
    """The places in a project file where a key of each name may stand, the highest first."""
    found: dict[str, dict[str, None]] = {}
    for place in sorted((*CONFIG_TYPES, *_places()), key=lambda place: place.count(".")):
        found.setdefault(place.rsplit(".", 1)[-1], {})[place] = None
    return {name: tuple(places) for name, places in found.items()}


def _places() -> Iterator[str]:
    """Of all keys below the jobs' names: those of sections first, then those that jobs share."""
    keys = [(job, key.name) for job, config in CONFIG_TYPES.items() for key in keys_of(config)]
    yield from (f"{job}.{name}" for job, name in keys if name.split(".")[0] not in SHARED)
    yield from (name for _, name in keys if name.split(".")[0] in SHARED)


def _listed(places: Sequence[str]) -> str:
    named = [
        place if "." in place else f"the top level of the file ({place})"
        for place in places[:_MOST_PLACES]
    ]
    return ", ".join([*named, *(["..."] if len(places) > _MOST_PLACES else [])])


def job_keys(job: str) -> str:
    """All keys of `job`: name, type, default and meaning; those shared with other jobs first."""
    own, shared = own_and_shared(job)
    lines = [
        "At the top level of the file, or in a section to override it for that job:",
        *(line for key in shared for line in _lines(key)),
        "",
        f"In the section {job}:",
        *(line for key in own for line in _lines(key)),
    ]
    return "\n".join(lines)


def own_and_shared(job: str) -> tuple[list[Key], list[Key]]:
    """The keys of the section of `job`, and those that stand at the top level of the file."""
    keys = list(keys_of(CONFIG_TYPES[job]))
    is_shared = [key.name.split(".")[0] in SHARED for key in keys]
    own = [key for key, shared in zip(keys, is_shared, strict=True) if not shared]
    return own, [key for key, shared in zip(keys, is_shared, strict=True) if shared]


def _lines(key: Key) -> Iterator[str]:
    yield f"  {key.name}  ({type_and_default(key)})"
    yield from textwrap.indent(textwrap.fill(meaning(key), _WIDTH - 6), " " * 6).splitlines()


def type_and_default(key: Key) -> str:
    """Such as `integer, default 3, with kind: sample`."""
    only = f", with kind: {key.kind}" if key.kind else ""
    return f"{_type(key.field.annotation)}{_default(key)}{only}"


def meaning(key: Key) -> str:
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
    if origin in (Union, UnionType):
        words = [_type(each) for each in arguments if each is not NoneType]
        or_null = ["null"] if NoneType in arguments else []
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
