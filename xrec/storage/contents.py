"""Files of an artifact as bytes: written with their hashes, and read against the manifest."""

from collections.abc import Mapping

from xrec.errors import ArtifactMismatchError
from xrec.storage.artifact import Manifest, content_hash
from xrec.storage.location import Location


def write_contents(location: Location, contents: Mapping[str, bytes | str]) -> dict[str, str]:
    """Write the files below `location`, text as UTF-8; returns each one's content hash."""
    hashes = {}
    for name, content in contents.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        (location / name).write_bytes(data)
        hashes[name] = content_hash(data)
    return hashes


def read_content(location: Location, manifest: Manifest, name: str, *, remedy: str) -> bytes:
    """A file of the artifact; raises ArtifactMismatchError if it is not what the manifest says.

    remedy: what to do then.
    """
    data = (location / name).read_bytes()
    if content_hash(data) != manifest.files[name]:
        raise ArtifactMismatchError(
            f"{location / name}: its content is not what the manifest says; {remedy}"
        )
    return data
