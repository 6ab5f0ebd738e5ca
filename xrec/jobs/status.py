"""Report which artifacts of a project exist, and whether they are up to date.

It reads manifests and lists files. It starts no cluster, downloads no language model, and does not
read the pairs of a backfill; notes say what was not compared.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from xrec.backfill import present
from xrec.config import JobConfig, Project
from xrec.errors import ArtifactNotFoundError, XRecError, first_line_of
from xrec.jobs import ARTIFACT_OF, job_named
from xrec.jobs.output import State
from xrec.storage import Kind, Manifest, check_access, location_of


@dataclass(frozen=True)
class ArtifactStatus:
    """An artifact of a project; "begun" means unfinished, and `notes` explain the state."""

    kind: Kind
    uri: str
    state: State | Literal["unusable"]
    manifest: Manifest | None = None
    num_bytes: int = 0
    notes: tuple[str, ...] = ()


def project_status(project: Project) -> list[ArtifactStatus]:
    """Return the artifacts of the project's jobs, in pipeline order.

    Raises ConfigError for a mistake in the file, and StorageError if the storage cannot be used.
    """
    configs = project.configs([job for job in project.jobs if job in ARTIFACT_OF])
    artifacts: list[ArtifactStatus] = []
    for job, config in configs.items():
        artifacts.append(_stale_by_input(_status(job, config), artifacts, config))
    return artifacts


def _stale_by_input(
    artifact: ArtifactStatus, earlier: list[ArtifactStatus], config: JobConfig
) -> ArtifactStatus:
    """Mark an artifact as stale if one of the `earlier` ones that it was made from is stale."""
    if artifact.state != "up to date" or artifact.manifest is None:
        return artifact
    inputs = set(artifact.manifest.inputs)
    llm = getattr(config, "llm", None)
    if "base_model" in inputs and llm is not None and llm.model == config.artifact("llm"):
        inputs.add("llm")
    stale = [each.kind for each in earlier if each.kind in inputs and each.state == "stale"]
    stale = [kind for kind in stale if present(config).artifact(kind) == config.artifact(kind)]
    notes = tuple(f"made from {kind}, which is stale" for kind in stale)
    return replace(artifact, state="stale", notes=notes + artifact.notes) if stale else artifact


def _status(job: str, config: JobConfig) -> ArtifactStatus:
    kind = ARTIFACT_OF[job]
    location = location_of(config, kind)
    check_access(location, config.storage)
    with suppress(XRecError):  # it is reported below
        location = location_of(present(config), kind)
    num_bytes = sum(int(info["size"]) for info in location.details().values())
    status = ArtifactStatus(kind, location.uri, "missing", None, num_bytes)
    try:
        made = job_named(job).output(present(config), exact=False)
        found = made.found()
    except ArtifactNotFoundError as error:  # an input is missing
        note = f"its input {str(error).partition(': ')[0]} is missing"
        return replace(status, state="stale", notes=(note,)) if num_bytes else status
    except XRecError as error:
        return replace(status, state="unusable", notes=(first_line_of(error),))
    notes = found.differences
    if found.manifest is not None:
        unchecked = ", ".join(made.unchecked)
        notes += ((f"not compared: {unchecked}",) if unchecked else ()) + _fits(found.manifest)
    state: State = "begun" if found.state == "missing" and num_bytes else found.state
    return replace(status, state=state, manifest=found.manifest, notes=notes)


def _fits(manifest: Manifest) -> tuple[str, ...]:
    """Return an adapter's figures from the leak meter (xrec.train.leak), and its warnings."""
    fits = [
        f"{name} {fit['train']:.2f} ({fit['held_out']:.2f})"
        for name, fit in manifest.metrics.get("fits", {}).items()
    ]
    line = f"fit to the reference, training (held-out): {', '.join(fits)}"
    return ((line,) if fits else ()) + tuple(manifest.metrics.get("leaks", ()))
