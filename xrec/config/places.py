"""Where in a project file a key may stand: for suggestions when it stands in a wrong place."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from xrec.config.base import Problem
from xrec.config.jobs import JOBS, SHARED
from xrec.config.keys import keys_of

_MOST_PLACES = 4


def described(problem: Problem, job: str | None = None) -> str:
    """What is wrong with a key of `job`; for a known key in a wrong place, its right places."""
    found = key_places().get(problem.keys[-1], ()) if problem.kind == "unknown" else ()
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
        if place.endswith(ending) and place.removesuffix(ending) in JOBS
    ]
    return f": {_listed(found)}" if found else f"; the jobs are {', '.join(JOBS)}"


@functools.cache
def key_places() -> Mapping[str, tuple[str, ...]]:
    """The places in a project file where a key of each name may stand, the highest first."""
    found: dict[str, list[str]] = {}
    for dotted in (*JOBS, *_places_in_sections(), *_shared_places()):
        found.setdefault(dotted.rsplit(".", 1)[-1], []).append(dotted)
    return {
        name: tuple(sorted(dict.fromkeys(places), key=lambda place: place.count(".")))
        for name, places in found.items()
    }


def _shared_places() -> Iterator[str]:
    for shared in SHARED:
        owner = next(config for config in JOBS.values() if shared in config.model_fields)
        for key in keys_of(owner):
            if key.name.split(".")[0] == shared:
                yield key.name


def _places_in_sections() -> Iterator[str]:
    for job, config in JOBS.items():
        for key in keys_of(config):
            if key.name.split(".")[0] not in SHARED:
                yield f"{job}.{key.name}"


def _listed(places: Sequence[str]) -> str:
    named = [
        place if "." in place else f"the top level of the file ({place})"
        for place in places[:_MOST_PLACES]
    ]
    return ", ".join([*named, *(["..."] if len(places) > _MOST_PLACES else [])])
