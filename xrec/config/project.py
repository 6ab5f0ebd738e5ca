"""A project file: one YAML that describes all jobs of a project.

What several jobs share (`workspace`, `llm`, `prompt`, ...) stands once at the top level. What one
job alone needs stands in a section of the job's name. The config of a job is

    the shared keys that the job has, overlaid by the job's section, overlaid by overrides,

where sections are merged key by key. `compare` trains variants of `train-adapter`, so its section
is laid over that of `train-adapter`. The whole file is validated whenever one job is run.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from xrec.config.base import Problem, config_error, validate
from xrec.config.jobs import CONFIG_TYPES, SHARED, described, with_job_names
from xrec.config.shared import JobConfig
from xrec.config.values import Override, parse_overrides, read_mapping
from xrec.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=JobConfig)


@dataclass(frozen=True)
class Project:
    """The values of a project file, with the overrides that name a place in the file."""

    source: str
    values: Mapping[str, Any]

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that have a section, in the order of the pipeline."""
        return tuple(job for job in CONFIG_TYPES if job in self.values)

    def configs(
        self, jobs: Collection[str], overrides: Sequence[Override] = ()
    ) -> dict[str, JobConfig]:
        """The configs of `jobs`, each with `overrides` of its own keys.

        Raises ConfigError with every mistake in the whole file. A key that is required and not
        given is a mistake in the configs of `jobs` only.
        """
        mistakes = _misplaced(self.values)
        configs = {}
        for job in CONFIG_TYPES:
            if job not in jobs and job not in self.values:
                continue
            if not isinstance(self.values.get(job), Mapping | None):
                continue
            view = _View.of(job, self.values, overrides if job in jobs else ())
            config, problems = validate(CONFIG_TYPES[job], view.values)
            for problem in problems:
                if job in jobs or not problem.is_missing:
                    place = view.place(problem.keys)
                    line = f"{place}: {described(problem, job)}"
                    mistakes.setdefault(line, replace(problem, keys=tuple(place.split("."))))
            if config is not None:
                configs[job] = config
        if mistakes:
            raise config_error(self.source, mistakes)
        return {job: configs[job] for job in CONFIG_TYPES if job in jobs}


def read_project(path: str | Path, arguments: Sequence[str] = ()) -> Project:
    """The project file at `path`; an override is a shared key, or begins with a job's name.

    Raises ConfigError if the file cannot be read or an override names no such key.
    """
    overrides = parse_overrides(arguments)
    for override in overrides:
        if override.keys[0] not in (*SHARED, *CONFIG_TYPES):
            raise ConfigError(
                f"override {override.dotted!r}: expected a shared key, or a job's name before the "
                f"key{with_job_names(override.keys)}",
                code="unknown_key",
                key=override.dotted,
            )
    return _read(path, overrides)


def load_config(
    config_type: type[ConfigT], path: str | Path, arguments: Sequence[str] = ()
) -> ConfigT:
    """The config of a job, by its class, from the project file at `path`.

    An override is a key of the job (`training.num_epochs=3`), or a place in the file
    (`train-adapter.training.num_epochs=3`). Raises ConfigError naming every mistake in the file.
    """
    overrides = parse_overrides(arguments)
    project = _read(path, [each for each in overrides if each.keys[0] in CONFIG_TYPES])
    own = [each for each in overrides if each.keys[0] not in CONFIG_TYPES]
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is config_type]
    config = project.configs([job], own)[job]
    assert isinstance(config, config_type)
    return config


def _read(path: str | Path, overrides: Sequence[Override]) -> Project:
    values = read_mapping(Path(path))
    for override in overrides:
        values = override.applied_to(values)
    return Project(str(path), values)


@dataclass(frozen=True)
class _View:
    """What one job sees of the file, and where in the file each of its keys comes from."""

    job: str
    values: Mapping[str, Any]
    layers: tuple[tuple[str, Mapping[str, Any]], ...]
    overridden: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, job: str, file: Mapping[str, Any], overrides: Sequence[Override]) -> "_View":
        fields = CONFIG_TYPES[job].model_fields
        shared = {key: file[key] for key in SHARED if key in fields and file.get(key) is not None}
        layers = [("", shared), (f"{job}.", _section(file, job))]
        if job == "compare":
            training = _section(file, "train-adapter")
            base = {key: value for key, value in training.items() if key in fields}
            layers.insert(1, ("train-adapter.", base))
        values = functools.reduce(_merged, (values for _, values in layers))
        for override in overrides:
            values = override.applied_to(values)
        return cls(
            job, values, tuple(reversed(layers)), tuple(override.keys for override in overrides)
        )

    def place(self, keys: tuple[str, ...]) -> str:
        """The key's name in the file, or on the command line if it was given there."""
        dotted = ".".join(keys)
        if any(keys[: len(each)] == each[: len(keys)] for each in self.overridden if keys):
            return dotted
        prefix, values = max(self.layers, key=lambda layer: _depth(layer[1], keys))
        if not _depth(values, keys):  # it stands nowhere
            prefix = "" if keys and keys[0] in SHARED else f"{self.job}."
        return (prefix + dotted).rstrip(".")


def _section(file: Mapping[str, Any], job: str) -> Mapping[str, Any]:
    section = file.get(job)
    return section if isinstance(section, Mapping) else {}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    """`below` with the values of `above` laid over it, sections key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _depth(values: Any, keys: Sequence[str]) -> int:
    """How many of `keys`, from the first, are there in `values`."""
    for depth, key in enumerate(keys):
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        else:
            return depth
    return len(keys)


def _misplaced(values: Mapping[str, Any]) -> dict[str, Problem]:
    """The mistakes at the top level by the line that describes each."""
    known = (*SHARED, *CONFIG_TYPES)
    mistakes = {}
    for key in values:
        if key not in known:
            unknown = Problem((str(key),), known=known)
            mistakes[f"{key}: {described(unknown)}"] = unknown
    for job in CONFIG_TYPES:
        section = values.get(job)
        if section is not None and not isinstance(section, Mapping):
            line = f"{job}: expected a mapping of keys to values, saw {type(section).__name__}"
            mistakes[line] = Problem((job,), "dict_type", saw=type(section).__name__)
    return mistakes
