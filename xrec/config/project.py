"""A project file: one YAML file that describes all jobs of a project.

Keys that jobs share (`workspace`, `llm`, `prompt`, ...) are at the top level, and those of one job
in a section of its name. A job's config is the shared keys that it has, overlaid with its section,
and then with the overrides of the command line. `compare` trains variants of `train-adapter`, so
its section is laid over that of `train-adapter`. Running one job validates the whole file.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from xrec.config.base import Mistake, config_error, merged, parse_config, validate
from xrec.config.job import JobConfig, StorageConfig
from xrec.config.keys import CONFIG_TYPES, SHARED, describe
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
        """Return the configs of `jobs`, each with `overrides` of its own keys.

        Raises ConfigError with every mistake in the whole file. A missing required key is a
        mistake in the configs of `jobs` only.
        """
        mistakes = _misplaced(self.values)
        configs = {}
        for job in CONFIG_TYPES:
            is_wanted, section = job in jobs, self.values.get(job)
            if not isinstance(section, Mapping | None) or not (is_wanted or job in self.values):
                continue
            view = _view(job, self.values, overrides if is_wanted else ())
            config, found = validate(CONFIG_TYPES[job], view.values)
            for mistake in found:
                if is_wanted or mistake.code != "missing":
                    place = view.place(mistake.keys)
                    line = f"{place}: {describe(mistake, job)}"
                    mistakes.setdefault(line, replace(mistake, keys=tuple(place.split("."))))
            if config is not None:
                configs[job] = config
        if mistakes:
            raise config_error(self.source, mistakes)
        return {job: configs[job] for job in CONFIG_TYPES if job in jobs}


def read_project(path: str | Path, arguments: Sequence[str] = ()) -> Project:
    """Return the project in the file at `path`, with overrides of shared keys and of JOB.KEY.

    Raises ConfigError if the file cannot be read or an override names no such key.
    """
    overrides = parse_overrides(arguments)
    known = (*SHARED, *CONFIG_TYPES)
    for override in overrides:
        if override.keys[0] not in known:
            raise ConfigError(
                f"override {override.dotted!r}: {describe(Mistake(override.keys, known=known))}; "
                "expected a shared key, or a job's name before the key",
                code="unknown_key",
                key=override.dotted,
            )
    return _read(path, overrides)


def load_config(
    config_type: type[ConfigT], path: str | Path, arguments: Sequence[str] = ()
) -> ConfigT:
    """Return the config of a job, given its class, from the project file at `path`.

    An override is a key of the job (`training.num_epochs=3`) or a place in the file
    (`train-adapter.training.num_epochs=3`). Raises ConfigError with every mistake in the file.
    """
    overrides = parse_overrides(arguments)
    project = _read(path, [each for each in overrides if each.keys[0] in CONFIG_TYPES])
    own = [each for each in overrides if each.keys[0] not in CONFIG_TYPES]
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is config_type]
    config = project.configs([job], own)[job]
    assert isinstance(config, config_type)
    return config


def storage_of(arguments: Sequence[str]) -> StorageConfig:
    """Return the storage section of `storage.key=value` arguments, or its defaults without any.

    Raises ConfigError for any other argument, and for an invalid value.
    """
    values: Mapping[str, Any] = {"workspace": ""}
    for override in parse_overrides(arguments):
        if override.keys[0] != "storage":
            raise ConfigError(
                f"{override.dotted}: unknown key; expected storage.key=value",
                code="unknown_key",
                key=override.dotted,
            )
        values = override.applied_to(values)
    return parse_config(JobConfig, values, "storage.key=value").storage


def _read(path: str | Path, overrides: Sequence[Override]) -> Project:
    values: Mapping[str, Any] = read_mapping(Path(path))
    for override in overrides:
        values = override.applied_to(values)
    return Project(str(path), values)


@dataclass(frozen=True)
class _View:
    """What a job sees of the file, and the layers it comes from by prefix, the lowest first."""

    job: str
    values: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Any]]
    overrides: Sequence[Override]

    def place(self, keys: tuple[str, ...]) -> str:
        """Return the key's name in the file, or on the command line if it was given there."""
        dotted = ".".join(keys)
        if any(keys[: len(each.keys)] == each.keys[: len(keys)] for each in self.overrides if keys):
            return dotted
        depths = {prefix: _depth(layer, keys) for prefix, layer in reversed([*self.layers.items()])}
        default = "" if keys and keys[0] in SHARED else f"{self.job}."
        prefix = max(depths, key=depths.__getitem__) if any(depths.values()) else default
        return f"{prefix}{dotted}".rstrip(".")


def _view(job: str, file: Mapping[str, Any], overrides: Sequence[Override]) -> _View:
    fields = CONFIG_TYPES[job].model_fields
    sections = {name: file[name] for name in (job, "train-adapter") if _is_section(file, name)}
    layers = {"": {key: file[key] for key in SHARED if key in fields and file.get(key) is not None}}
    if job == "compare":
        training = sections.get("train-adapter", {})
        layers["train-adapter."] = {key: each for key, each in training.items() if key in fields}
    layers[f"{job}."] = sections.get(job, {})
    values: Mapping[str, Any] = functools.reduce(merged, layers.values())
    for override in overrides:
        values = override.applied_to(values)
    return _View(job, values, layers, overrides)


def _is_section(file: Mapping[str, Any], job: str) -> bool:
    return isinstance(file.get(job), Mapping)


def _depth(values: Any, keys: Sequence[str]) -> int:
    """Return how many of `keys`, from the first, `values` has."""
    for depth, key in enumerate(keys):
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        else:
            return depth
    return len(keys)


def _misplaced(values: Mapping[str, Any]) -> dict[str, Mistake]:
    """Return the mistakes at the top level, by the line that describes each."""
    known = (*SHARED, *CONFIG_TYPES)
    mistakes = {}
    for key in values:
        if key not in known:
            unknown = Mistake((str(key),), known=known)
            mistakes[f"{key}: {describe(unknown)}"] = unknown
    for job in CONFIG_TYPES:
        section = values.get(job)
        if not isinstance(section, Mapping | None):
            kind = type(section).__name__
            line = f"{job}: expected a mapping of keys to values, saw {kind}"
            mistakes[line] = Mistake((job,), "dict_type", saw=kind)
    return mistakes
