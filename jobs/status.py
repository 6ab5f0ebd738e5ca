"""What is there of a project: its artifacts, whether they are up to date, and what they are worth.

Reads manifests and lists files. It starts no cluster, downloads no language model, and reads pairs
only where they are few; what was not compared for that reason is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.command.catalogue import Job, job_named
from jobs.output import Found, Output
from xrec.config.project import Project
from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, XRecError
from xrec.storage import (
    Kind,
    Location,
    Manifest,
    check_access,
    location_of,
    read_manifest,
    storage_errors,
)

_FIGURES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "annotations": (("aspects_in_review", "aspects in reviews"),),
    "llm": (("loss", "loss"),),
    "graph": (("recall@20", "Recall@20"), ("ndcg@20", "NDCG@20")),
    "aspects": (("ndcg@10", "NDCG@10"),),
    "adapter": (("validation_loss", "validation loss"),),
    "evaluation": (
        ("personalization_gain", "gain"),
        ("aspect_accuracy", "aspect accuracy"),
    ),
}
_ROWS: Mapping[str, tuple[str, ...]] = {
    "annotations": ("reviews", "explanations"),
    "dataset": ("interactions", "explanations"),
    "evaluation": ("pairs",),
}
_MOST_COUNTS = 2


@dataclass(frozen=True)
class ArtifactStatus:
    """One artifact of a project.

    `state` is "missing", "begun" (and not finished), "up to date", "stale", or "unusable".
    `num_bytes` is the size of all its files. `notes` say why it is stale, what it lacks, and what
    was not compared.
    """

    job: Job
    kind: Kind
    uri: str
    state: str
    manifest: Manifest | None = None
    num_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> str:
        """The one or two metrics that matter, as words."""
        metrics = self.manifest.metrics if self.manifest else {}
        shown = [(label, _metric(metrics, name)) for name, label in _FIGURES.get(self.kind, ())]
        return ", ".join(f"{label} {value:.4g}" for label, value in shown if value is not None)

    @property
    def rows(self) -> str:
        """The one or two row counts that matter, as words."""
        counts = self.manifest.row_counts if self.manifest else {}
        names = _ROWS.get(self.kind, tuple(counts)[:_MOST_COUNTS])
        return ", ".join(f"{counts[name]:,} {name}" for name in names if counts.get(name))


def project_status(project: Project) -> list[ArtifactStatus]:
    """The artifacts of the project's jobs, in the order of the pipeline.

    Raises ConfigError for a mistake in the file, StorageError if the storage cannot be used.
    """
    makers = [job for job in map(job_named, project.jobs) if job.artifact is not None]
    configs = project.configs([job.name for job in makers])
    artifacts: list[ArtifactStatus] = []
    for job in makers:
        artifact = _status(job, configs[job.name])
        artifacts.append(_after(artifact, artifacts, configs[job.name]))
    return artifacts


def _after(
    artifact: ArtifactStatus, before: list[ArtifactStatus], config: JobConfig
) -> ArtifactStatus:
    """An artifact is stale too if one that it was made from is."""
    if artifact.state != "up to date" or artifact.manifest is None:
        return artifact
    inputs = set(artifact.manifest.inputs)
    llm = getattr(config, "llm", None)
    if "base_model" in inputs and llm is not None and llm.model == config.artifact("llm"):
        inputs.add("llm")
    stale = [each.kind for each in before if each.kind in inputs and each.state == "stale"]
    notes = tuple(f"made from {each}, which is stale" for each in stale)
    return replace(artifact, state="stale", notes=notes + artifact.notes) if stale else artifact


def _status(job: Job, config: JobConfig) -> ArtifactStatus:
    assert job.artifact is not None
    kind = job.artifact
    location = location_of(config, kind)
    check_access(location, config.storage)
    try:
        made = job.output(config, exact=False)
        found = made.found()
    except ArtifactNotFoundError as error:
        return _without_input(job, kind, location, str(error).split(":")[0])
    except XRecError as error:
        return _there(job, kind, location, "unusable", (str(error).splitlines()[0],))
    if found.state == "missing":
        num_bytes = _num_bytes(made.location)
        state = "begun" if num_bytes else "missing"
        return ArtifactStatus(job, kind, made.location.uri, state, num_bytes=num_bytes)
    return ArtifactStatus(
        job,
        kind,
        made.location.uri,
        {"same": "up to date", "begun": "begun", "differs": "stale"}[found.state],
        found.manifest,
        _num_bytes(made.location),
        (*found.differences, *_unchecked(made, found)),
    )


def _unchecked(made: Output, found: Found) -> tuple[str, ...]:
    if found.manifest is None or not made.unchecked:
        return ()
    return (f"not compared: {', '.join(made.unchecked)}",)


def _without_input(job: Job, kind: Kind, location: Location, missing: str) -> ArtifactStatus:
    """An artifact whose input is gone cannot be compared; one that is not there need not be."""
    note = f"its input {missing} is missing"
    there = _there(job, kind, location, "stale", (note,))
    return there if there.manifest else ArtifactStatus(job, kind, location.uri, "missing")


def _there(
    job: Job, kind: Kind, location: Location, state: str, notes: tuple[str, ...]
) -> ArtifactStatus:
    try:
        manifest = read_manifest(location, kind)
    except ArtifactNotFoundError:
        return ArtifactStatus(job, kind, location.uri, state, notes=notes)
    except ArtifactMismatchError as error:
        return ArtifactStatus(
            job, kind, location.uri, "unusable", notes=(str(error).splitlines()[0],)
        )
    return ArtifactStatus(job, kind, location.uri, state, manifest, _num_bytes(location), notes)


def _num_bytes(location: Location) -> int:
    with storage_errors(location.uri):
        sizes: Mapping[str, Any] = location.fs.find(location.path, detail=True)
    return sum(int(info["size"]) for info in sizes.values())


def _metric(metrics: Mapping[str, Any], name: str) -> float | None:
    """The metric `name`, at the top or, for a ranking, on the test split."""
    value = metrics.get(name, (metrics.get("test") or {}).get(name))
    return float(value) if isinstance(value, int | float) else None
