"""The jobs of a project file with the classes of their configs, and where each key may stand."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.annotate import AnnotateConfig
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.base import Problem, keys_of
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
    "cold_start",
    "scaling",
    *ARTIFACTS,
)
"""The keys that stand at the top level of a project file."""

_MOST_PLACES = 4


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
