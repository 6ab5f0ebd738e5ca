"""The artifacts that a job's config names: where they lie, and their manifests."""

from xrec.config.shared import JobConfig
from xrec.storage.artifact import Kind, Manifest, read_manifest
from xrec.storage.location import Location
from xrec.storage.uri import check_access, open_location


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
