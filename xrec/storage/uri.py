"""From a URI, or the name of an artifact in a job's config, to its location.

It is the only place that tells a local path from s3://.
"""

import os

from xrec.config.shared import JobConfig, StorageConfig
from xrec.errors import StorageError
from xrec.storage.artifact import Kind, Manifest, read_manifest
from xrec.storage.local import LocalLocation
from xrec.storage.location import Location
from xrec.storage.s3 import S3Location, open_s3


def open_location(uri: str, storage: StorageConfig | None = None) -> Location:
    """The location of a local path, a `file://` URI or `s3://bucket/prefix`; nothing is
    contacted yet.

    Raises StorageError for another scheme or an s3:// URI without a bucket.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalLocation(uri, os.path.abspath(os.path.expanduser(rest if separator else uri)))
    if scheme != "s3":
        raise StorageError(
            f"URI {uri!r}: scheme {scheme!r} is not supported; give a local path or "
            "s3://bucket/prefix"
        )
    if not rest.split("/", 1)[0]:
        raise StorageError(f"URI {uri!r} names no bucket; expected s3://bucket/prefix")
    return S3Location(uri, rest.rstrip("/"), open_s3(storage or StorageConfig()))


def check_access(location: Location, storage: StorageConfig) -> None:
    """Raise a StorageError if the bucket cannot be used; a local path may still be made."""
    if isinstance(location, S3Location):
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
