"""Decide which jobs a night runs, with which configs, and in which folder."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from xrec.backfill import last_night, present
from xrec.config import JobConfig, PretrainGraphConfig
from xrec.data import EXTENDS
from xrec.errors import ArtifactNotFoundError, ConfigError
from xrec.storage import Kind, Location, location_of, open_location, read_manifest

_TRAINED: Mapping[str, Kind] = {"train-adapter": "adapter"}
"""Jobs that a night only runs if it trains."""
_MAKERS: Mapping[str, Kind] = {
    "annotate": "annotations",
    "prepare": "dataset",
    "pretrain-graph": "graph",
    "neighbors": "neighbors",
    **_TRAINED,
    "recommend": "recommendations",
}
"""Jobs that write an artifact into the night's folder, and its kind."""
_RECORD = "night.json"
"""The file in a night's folder with the mode that it began with."""
_NEEDED = ("prepare", "pretrain-graph", "backfill")


@dataclass(frozen=True)
class Night:
    """The configs of a night's jobs, in order.

    folder: the folder of its artifacts; None if the raw files have not changed since the present
        dataset was made, so that only eligible items, recommendations and explanations may change.
    trains: whether it trains the graph further, and retrains the other models.
    """

    jobs: Mapping[str, JobConfig]
    folder: Location | None
    trains: bool = False

    @property
    def title(self) -> str:
        how = ", with training" if self.trains else ""
        return f"night: {self.folder}{how}" if self.folder else "the raw files did not change"

    def begin(self) -> None:
        """Record the mode in the night's folder."""
        if self.folder is not None:
            (self.folder / _RECORD).create_bytes(json.dumps({"train": self.trains}).encode())


class JobState(Protocol):
    """A function that returns a job's state: "missing", "begun", "up to date" or "stale"."""

    def __call__(self, name: str, config: JobConfig, *, ignoring: Sequence[str] = ()) -> str:
        """Return the state; differences in the settings and inputs `ignoring` do not count."""


def plan_night(
    configs: Mapping[str, JobConfig], state: JobState, *, train: bool = False, reread: bool = False
) -> Night:
    """Return the night to run: the latest one that was interrupted or stopped, or a new one.

    A night keeps the mode that it began with: without `train`, one that trains is continued, and
    with `train`, one that does not is left alone. A folder is left alone, too, if something in it
    was made from other raw files or settings, so a night never deletes what another one made.

    train: train the graph further, and retrain the other models. reread: read the raw files even
        if they did not change.

    Raises ConfigError if a section is missing, or if a config sets the URI of an artifact that the
    night makes; ArtifactNotFoundError if the project was never run.
    """
    if missing := [name for name in _NEEDED if name not in configs]:
        raise ConfigError(
            f"refresh needs the sections {', '.join(_NEEDED)}; missing: {', '.join(missing)}",
            code="missing",
            key=missing[0],
        )
    number, uris = last_night(configs["backfill"])
    if not train and not reread and _is_prepared(configs, uris, number, state):
        jobs = [name for name in ("recommend", "backfill") if name in configs]
        return Night({name: present(configs[name]) for name in jobs}, None)
    nights = location_of(configs["prepare"], "nights")
    later = [int(name) for name in nights.folders() if name.isdigit() and int(name) > number]
    for existing in sorted(later, reverse=True):
        record = nights / str(existing) / _RECORD
        trains = json.loads(record.read_text())["train"] if record.is_file() else train
        night = _next_night(configs, uris, existing, trains)
        if trains >= train and not _is_of_others(night, state):
            return night
    night = _next_night(configs, uris, max([number, *later]) + 1, train)
    read_manifest(open_location(uris["dataset"], configs["prepare"].storage), "dataset")
    return night


def _is_of_others(night: Night, state: JobState) -> bool:
    """Return whether an artifact in the night's folder was made from other files or settings.

    Recommendations do not count: they take little time, and are replaced.
    """
    names = [name for name in night.jobs if name in _MAKERS and name != "recommend"]
    if state(names[0], night.jobs[names[0]]) == "stale":
        return True
    with suppress(ArtifactNotFoundError):  # an input that the night has yet to make
        return any(state(name, night.jobs[name]) == "stale" for name in names[1:])
    return False


def _is_prepared(
    configs: Mapping[str, JobConfig], uris: Mapping[str, str], number: int, state: JobState
) -> bool:
    """Return whether the present dataset was made from the current raw files and settings."""
    folder = configs["prepare"].artifact(f"nights/{number}")
    own = {**uris, **({"annotations": f"{folder}/annotations"} if number else {})}
    names = [name for name in ("annotate", "prepare") if name in configs]
    return all(
        state(name, configs[name].with_artifacts(own), ignoring=(EXTENDS,)) == "up to date"
        for name in names
    )


def _next_night(
    configs: Mapping[str, JobConfig], uris: Mapping[str, str], number: int, train: bool
) -> Night:
    """Return night `number`, which extends the artifacts at `uris`."""
    makers = {
        n: kind for n, kind in _MAKERS.items() if n in configs and (train or n not in _TRAINED)
    }
    jobs = {name: configs[name] for name in (*makers, "backfill")}
    folder = location_of(configs["prepare"], f"nights/{number}")
    _check_no_uris(jobs, [*makers.values()], folder)
    shared: dict[str, str] = {**uris, **{kind: f"{folder}/{kind}" for kind in makers.values()}}
    graph: dict[str, Any] = {"start_from": uris["graph"]}
    if not train and isinstance(config := configs["pretrain-graph"], PretrainGraphConfig):
        # Even a slightly helpful epoch moves every vector. Folds only matter for training adapters.
        graph |= {"training": config.training.model_copy(update={"num_epochs": 0}), "folds": 0}
    own: dict[str, dict[str, Any]] = {
        "prepare": {EXTENDS: uris["dataset"]},
        "pretrain-graph": graph,
        "recommend": {"keeps": uris.get("recommendations")},
    }
    return Night(
        {
            name: config.with_artifacts(shared).model_copy(update=own.get(name, {}))
            for name, config in jobs.items()
        },
        folder,
        train,
    )


def _check_no_uris(jobs: Mapping[str, JobConfig], made: list[Kind], folder: Location) -> None:
    named = [kind for kind in made if any(kind in jobs[name].artifacts for name in jobs)]
    if named:
        raise ConfigError(
            f"{', '.join(named)}: a night writes its own to {folder}, but the project sets a URI; "
            "remove the key",
            code="uri_in_night",
            key=named[0],
        )
