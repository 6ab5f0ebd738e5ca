"""A project file: one YAML file that describes all jobs of a project.

Keys that jobs share (`workspace`, `llm`, `prompt`, ...) are at the top level, and the keys of one
job are in a section named after it. A job's config consists of the shared keys that it uses,
overlaid with its section, and then with the overrides from the command line. `compare` trains
variants of `train-adapter`, so its section overlays that one. Running a job validates the whole
file.
"""

import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from xrec.config.base import (
    Mistake,
    child,
    config_error,
    merged,
    parse_config,
    unknown_key,
    validate,
)
from xrec.config.job import JobConfig, StorageConfig
from xrec.config.keys import CONFIG_TYPES, SHARED, places
from xrec.config.values import Override, lines_of_keys, parse_overrides, read_mapping
from xrec.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=JobConfig)
_TOP = (*SHARED, *CONFIG_TYPES)


@dataclass(frozen=True)
class Project:
    """The values of a project file, with the overrides that name a place in the file.

    `context` is the validation context of the jobs that are run, for example `SHARED_DISKS`.
    `overrides` are those already in `values`, whose mistakes have no line in the file.
    """

    source: str
    values: Mapping[str, Any]
    context: Mapping[str, Any] | None = None
    overrides: Sequence[Override] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """The jobs that have a section, in the order of the pipeline."""
        return tuple(job for job in CONFIG_TYPES if job in self.values)

    def configs(
        self, jobs: Collection[str], overrides: Sequence[Override] = ()
    ) -> dict[str, JobConfig]:
        """Return the configs of `jobs`, each with `overrides` of its own keys.

        Raises ConfigError with every mistake in the whole file. A missing required key counts as
        a mistake only in the configs of `jobs`.
        """
        mistakes = _misplaced(self.values)
        configs = {}
        for job, config_type in CONFIG_TYPES.items():
            is_wanted, section = job in jobs, self.values.get(job)
            if not isinstance(section, Mapping | None) or not (is_wanted or job in self.values):
                continue
            own, context = (overrides, self.context) if is_wanted else ((), None)
            layers = _layers(job, self.values)
            values = applied(own, functools.reduce(merged, layers.values()))
            config, found = validate(config_type, values, context)
            mistakes += [
                replace(each, keys=tuple(_place(each.keys, job, layers, own).split(".")))
                for each in found
                if is_wanted or each.code != "missing"
            ]
            if config is not None and is_wanted:
                configs[job] = config
        if mistakes:
            raise config_error(self.source, self._with_lines(mistakes), places())
        return configs

    def _with_lines(self, mistakes: Iterable[Mistake]) -> list[Mistake]:
        """Return the mistakes, those in the file with their lines, in the order of the lines."""
        path, given = Path(self.source), {each.keys for each in self.overrides}
        lines = lines_of_keys(path) if path.is_file() else {}
        found = [
            replace(each, line=None if each.keys in given else lines.get(each.keys))
            for each in {str(each): each for each in mistakes}.values()  # jobs share keys
        ]
        return sorted(found, key=lambda each: each.line or math.inf)


def read_project(
    path: str | Path, arguments: Sequence[str] = (), context: Mapping[str, Any] | None = None
) -> Project:
    """Return the project in the file at `path`, with overrides of shared keys and of JOB.KEY.

    Raises ConfigError if the file cannot be read or an override starts with an unknown key.
    """
    overrides = parse_overrides(arguments)
    for override in overrides:
        if override.keys[0] not in _TOP:
            raise ConfigError(
                f"override {override.dotted!r}: {unknown_key(override.keys, places())} "
                "Expected a shared key, or a job's name before the key",
                code="unknown_key",
                key=override.dotted,
            )
    values = applied(overrides, read_mapping(Path(path)))
    return Project(str(path), values, context, overrides)


def load_config(
    config_type: type[ConfigT],
    path: str | Path,
    arguments: Sequence[str] = (),
    context: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Return the config of a job, given its class, from the project file at `path`.

    An override is a key of the job (`training.num_epochs=3`) or a place in the file
    (`train-adapter.training.num_epochs=3`). Raises ConfigError with every mistake in the file.
    """
    overrides = parse_overrides(arguments)
    of_file = [each for each in overrides if each.keys[0] in CONFIG_TYPES]
    own = [each for each in overrides if each.keys[0] not in CONFIG_TYPES]
    project = Project(str(path), applied(of_file, read_mapping(Path(path))), context, of_file)
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is config_type]
    config = project.configs([job], own)[job]
    assert isinstance(config, config_type)
    return config


def storage_of(arguments: Sequence[str]) -> StorageConfig:
    """Return the storage section that `storage.key=value` arguments give, and defaults otherwise.

    Raises ConfigError for any other argument, and for an invalid value.
    """
    overrides = parse_overrides(arguments)
    if others := [each.dotted for each in overrides if each.keys[0] != "storage"]:
        raise ConfigError(
            f"{others[0]}: unknown key; expected storage.key=value",
            code="unknown_key",
            key=others[0],
        )
    values = applied(overrides, {"workspace": ""})
    return parse_config(JobConfig, values, "storage.key=value").storage


def applied(overrides: Sequence[Override], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `values` with the overrides. Raises ConfigError if a parent is not a section."""
    return functools.reduce(lambda changed, each: each.applied_to(changed), overrides, values)


def _layers(job: str, file: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parts of the file that a job uses, by their key prefix, lowest layer first."""
    fields = CONFIG_TYPES[job].model_fields
    shared = {key: file[key] for key in SHARED if key in fields and file.get(key) is not None}
    layers: dict[str, Mapping[str, Any]] = {"": shared}
    training = file.get("train-adapter")
    if job == "compare" and isinstance(training, Mapping):
        layers["train-adapter."] = {key: each for key, each in training.items() if key in fields}
    return {**layers, f"{job}.": file.get(job) or {}}


def _place(
    keys: tuple[str, ...],
    job: str,
    layers: Mapping[str, Mapping[str, Any]],
    overrides: Sequence[Override],
) -> str:
    """Return the key's name in the file, or on the command line if it was given there."""
    dotted = ".".join(keys)
    if any(keys[: len(each.keys)] == each.keys[: len(keys)] for each in overrides if keys):
        return dotted
    prefix = "" if keys and keys[0] in SHARED else f"{job}."
    for of_layer, values in layers.items() if keys else ():
        if functools.reduce(child, keys, values) is not None:
            prefix = of_layer
    return f"{prefix}{dotted}".rstrip(".")


def _misplaced(values: Mapping[str, Any]) -> list[Mistake]:
    """Return the mistakes at the top level of the file."""
    mistakes = [
        Mistake((str(key),), "extra_forbidden", "unknown key") for key in values if key not in _TOP
    ]
    for job in CONFIG_TYPES:
        section = values.get(job)
        if not isinstance(section, Mapping | None):
            kind = type(section).__name__
            text = f"expected a mapping of keys to values, saw {kind}"
            mistakes.append(Mistake((job,), "dict_type", text, kind))
    return mistakes
