"""The artifacts that published explanations were made from; they are the project's present ones.

Each version's manifest names them (`made_from`), so one commit changes all of them together, and so
does a rollback. URIs in the workspace begin with `workspace:` there, so a workspace can be moved.
"""

import re
from typing import TypeVar

from xrec.bulk import find_published
from xrec.config import WORKSPACE, ArtifactName, ExplanationsJobConfig, JobConfig, RecommendConfig
from xrec.storage import check_artifacts, location_of

_KINDS: tuple[ArtifactName, ...] = ("dataset", "graph", "adapter", "recommendations")
_GRAPH_OF_A_NIGHT = re.compile(rf"{WORKSPACE}nights/(\d+)/graph")

ConfigT = TypeVar("ConfigT", bound=JobConfig)


def made_from(config: ExplanationsJobConfig) -> dict[str, str]:
    """Return the URIs of the artifacts that a backfill reads, by kind, for its manifest."""
    workspace = f"{config.workspace.rstrip('/')}/"
    return {kind: config.artifact(kind).replace(workspace, WORKSPACE, 1) for kind in _KINDS}


def resolve(config: JobConfig, uri: str) -> str:
    """Return a URI that `made_from` returned, with the workspace's own in place of `workspace:`."""
    return uri.replace(WORKSPACE, f"{config.workspace.rstrip('/')}/", 1)


def last_night(config: JobConfig) -> tuple[int, dict[str, str]]:
    """Return the number of the night whose explanations are published, and its artifacts' URIs.

    Before the first night, return 0 and the URIs of the project's own artifacts. URIs that the
    config names stay. Raises what `find_published` raises.
    """
    check_artifacts(config)
    manifest = find_published(location_of(config, "explanations"), "explanations")
    uris = {} if manifest is None else manifest.metrics.get("made_from", {})
    if (night := _GRAPH_OF_A_NIGHT.fullmatch(uris.get("graph", ""))) is None:
        return 0, {kind: config.artifact(kind) for kind in _KINDS}
    own = {kind: config.artifacts.get(kind) or uris[kind] for kind in _KINDS if kind in uris}
    return int(night[1]), {kind: resolve(config, uri) for kind, uri in own.items()}


def present(config: ConfigT) -> ConfigT:
    """Return the config of a job that reads a project's artifacts, with those of the last night.

    The config of a job that makes these artifacts is returned as it is.
    """
    is_reader = isinstance(config, ExplanationsJobConfig | RecommendConfig)
    uris = last_night(config)[1] if is_reader else {}
    return config.with_artifacts(uris)
