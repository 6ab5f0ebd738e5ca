"""What is there of a project: its artifacts, and whether they are up to date.

Reads manifests and lists files. It starts no cluster, downloads no language model, and reads pairs
only where they are few; what was not compared for that reason is said.
"""

from dataclasses import dataclass, replace
from typing import Literal

from xrec.config import JobConfig, Project
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.jobs.catalogue import Job, job_named
from xrec.jobs.output import State
from xrec.storage import Kind, Manifest, check_access, location_of, present


@dataclass(frozen=True)
class ArtifactStatus:
    """One artifact of a project; one that is "begun" is not finished.

    `num_bytes` is the size of all its files. `notes` say why it is stale, what it lacks, and what
    was not compared.
    """

    kind: Kind
    uri: str
    state: State | Literal["unusable"]
    manifest: Manifest | None = None
    num_bytes: int = 0
    notes: tuple[str, ...] = ()


def project_status(project: Project) -> list[ArtifactStatus]:
    """The artifacts of the project's jobs, in the order of the pipeline.

    Raises ConfigError for a mistake in the file, StorageError if the storage cannot be used.
    """
    makers = [job for job in map(job_named, project.jobs) if job.artifact is not None]
    configs = project.configs([job.name for job in makers])
    artifacts: list[ArtifactStatus] = []
    for job in makers:
        artifact = _status(job, configs[job.name])
        artifacts.append(_stale_by_input(artifact, artifacts, configs[job.name]))
    return artifacts


def _stale_by_input(
    artifact: ArtifactStatus, before: list[ArtifactStatus], config: JobConfig
) -> ArtifactStatus:
    """The artifact, as stale if one of those `before` that it was made from is stale."""
    if artifact.state != "up to date" or artifact.manifest is None:
        return artifact
    inputs = set(artifact.manifest.inputs)
    llm = getattr(config, "llm", None)
    if "base_model" in inputs and llm is not None and llm.model == config.artifact("llm"):
        inputs.add("llm")
    stale = [each.kind for each in before if each.kind in inputs and each.state == "stale"]
    stale = [kind for kind in stale if present(config).artifact(kind) == config.artifact(kind)]
    notes = tuple(f"made from {each}, which is stale" for each in stale)
    return replace(artifact, state="stale", notes=notes + artifact.notes) if stale else artifact


def _status(job: Job, config: JobConfig) -> ArtifactStatus:
    assert job.artifact is not None
    location = location_of(config, job.artifact)
    check_access(location, config.storage)
    num_bytes = sum(int(info["size"]) for info in location.details().values())
    status = ArtifactStatus(job.artifact, location.uri, "missing", None, num_bytes)
    try:
        made = job.output(present(config), exact=False)
        found = made.found()
    except ArtifactNotFoundError as error:  # an input
        note = f"its input {str(error).partition(': ')[0]} is missing"
        return replace(status, state="stale", notes=(note,)) if status.num_bytes else status
    except XRecError as error:
        return replace(status, state="unusable", notes=(str(error).splitlines()[0],))
    notes = found.differences
    if found.manifest is not None:
        unchecked = ", ".join(made.unchecked)
        notes += ((f"not compared: {unchecked}",) if unchecked else ()) + _fits(found.manifest)
    state: State = "begun" if found.state == "missing" and status.num_bytes else found.state
    return replace(status, state=state, manifest=found.manifest, notes=notes)


def _fits(manifest: Manifest) -> tuple[str, ...]:
    """An adapter's figures of the leak meter (xrec.train.leak), in a line, and its warnings."""
    fits = [
        f"{name} {fit['train']:.2f} ({fit['held_out']:.2f})"
        for name, fit in manifest.metrics.get("fits", {}).items()
    ]
    line = f"fit to the reference, training (held-out): {', '.join(fits)}"
    return ((line,) if fits else ()) + tuple(manifest.metrics.get("leaks", ()))
