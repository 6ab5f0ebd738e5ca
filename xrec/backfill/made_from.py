"""The artifacts that the published explanations were made from: the project's current ones.

Each version's manifest names them (`made_from`), so one commit or rollback switches all of them
together. URIs in the workspace start with `workspace:` there, so that a workspace can be moved.
"""

import re
from typing import TypeVar

from xrec.bulk import find_published, open_log
from xrec.config import (
    WORKSPACE,
    ArtifactName,
    ExplanationsJobConfig,
    JobConfig,
    RecommendConfig,
    StorageConfig,
)
from xrec.errors import TableError
from xrec.storage import MANIFEST, check_artifacts, location_of, open_location

_KINDS: tuple[ArtifactName, ...] = (
    *("dataset", "graph", "neighbors", "adapter", "recommendations"),
)
_GRAPH_OF_A_NIGHT = re.compile(rf"{WORKSPACE}nights/(\d+)/graph")

ConfigT = TypeVar("ConfigT", bound=JobConfig)


def made_from(config: ExplanationsJobConfig) -> dict[str, str]:
    """Return the URIs of the artifacts that a backfill reads, by kind, for its manifest."""
    workspace = f"{config.workspace.rstrip('/')}/"
    return {kind: config.artifact(kind).replace(workspace, WORKSPACE, 1) for kind in _KINDS}


def resolve(config: JobConfig, uri: str) -> str:
    """Return a URI from `made_from`, with `workspace:` replaced by the workspace's own URI."""
    return uri.replace(WORKSPACE, f"{config.workspace.rstrip('/')}/", 1)


def last_night(config: JobConfig) -> tuple[int, dict[str, str]]:
    """Return the number of the night whose explanations are published, and its artifacts' URIs.

    Before the first night, return 0 and the URIs of the project's own artifacts. URIs that the
    config names take precedence. Raises what `find_published` raises.
    """
    check_artifacts(config)
    manifest = find_published(location_of(config, "explanations"), "explanations")
    uris = {} if manifest is None else manifest.metrics.get("made_from", {})
    if (night := _GRAPH_OF_A_NIGHT.fullmatch(uris.get("graph", ""))) is None:
        return 0, {kind: config.artifact(kind) for kind in _KINDS}
    own = {kind: config.artifacts.get(kind) or uris[kind] for kind in _KINDS if kind in uris}
    return int(night[1]), {kind: resolve(config, uri) for kind, uri in own.items()}


def refuse_without_inputs(uri: str, version: int, storage: StorageConfig | None = None) -> None:
    """Raise TableError if an artifact that a version was made from is gone, after `xrec forget`.

    Only artifacts of the kinds that the newest version still has are checked, in the folder that
    contains the table.
    """
    location, workspace = (open_location(part, storage) for part in (uri, uri.rpartition("/")[0]))
    if (log := open_log(location)) is None or not 0 <= version <= log.version:
        return
    made = [
        {} if shown is None else shown.manifest.metrics.get("made_from", {})
        for shown in (log.shown(log.version), log.shown(version))
    ]
    inside = (
        {k: u.removeprefix(WORKSPACE) for k, u in side.items() if WORKSPACE in u} for side in made
    )
    now, then = (
        {kind: (workspace / name / MANIFEST).is_file() for kind, name in side.items()}
        for side in inside
    )
    if gone := [made[1][kind] for kind, exists in then.items() if now.get(kind) and not exists]:
        raise TableError(
            f"{uri}: version {version} was made from {', '.join(gone)}, which no longer exists; "
            "choose another version",
            code="inputs_gone",
            key=uri,
            saw=version,
        )


def present(config: ConfigT) -> ConfigT:
    """Return the config of a job that reads a project's artifacts, set to those of the last night.

    The config of a job that makes these artifacts is returned unchanged.
    """
    is_reader = isinstance(config, ExplanationsJobConfig | RecommendConfig)
    uris = last_night(config)[1] if is_reader else {}
    return config.with_artifacts(uris)
