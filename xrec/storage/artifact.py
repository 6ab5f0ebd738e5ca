"""Artifacts: folders with a `manifest.json`, which is written last and deleted first.

A folder without one is not an artifact. The manifest of a table is in the commit that published
the table (xrec.bulk).
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, StorageNotFoundError
from xrec.storage.location import Location
from xrec.storage.manifest import (
    SCHEMA_VERSION,
    Claim,
    Kind,
    Manifest,
    content_hash,
    make_manifest,
    mismatch,
    run_fingerprint,
)
from xrec.storage.requests import request_each, storage_errors

logger = logging.getLogger("xrec")

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
"""The folder of an unfinished training, in the folder of its artifact."""
RUN_RECORD = "run.json"
"""The file that records which run a folder belongs to (`Claim`); it is written first."""
DELETING = "_deleting"
"""An empty file that marks an artifact as being deleted; it is deleted last."""
_ADVICE = "give another output URI, or make it again with xrec run --redo"
PART_BYTES = 2**24


def write_manifest(location: Location, kind: Kind, **fields: Any) -> Manifest:
    """Write and return a manifest, which finishes an artifact; `fields` go to `make_manifest`."""
    manifest = make_manifest(kind, **fields)
    (location / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def read_manifest(location: Location, kind: Kind) -> Manifest:
    """Return the manifest at `location`.

    Raises ArtifactNotFoundError if there is none, and the same errors as `check_manifest`.
    """
    try:
        manifest = Manifest.read(location / MANIFEST)
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{location}: no {kind} artifact ({MANIFEST} is missing); it was never made, is "
            "unfinished, or was deleted: make it (xrec run CONFIG), or check the URI",
            code="no_artifact",
            key=kind,
        ) from error
    return check_manifest(location, manifest, kind)


def check_manifest(location: Location, manifest: Manifest, kind: Kind) -> Manifest:
    """Return the manifest; raise ArtifactMismatchError if its kind or schema version differs."""
    if manifest.kind != kind:
        raise ArtifactMismatchError(
            f"{location}: expected artifact kind {kind}, found {manifest.kind}; check the URI",
            code="another_kind",
            key=str(location),
            saw=manifest.kind,
        )
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactMismatchError(
            f"{location}: schema version {manifest.schema_version}, but this xrec reads "
            f"{SCHEMA_VERSION}; make it again, or use the version of xrec that wrote it",
            code="another_schema",
            key="schema_version",
            saw=manifest.schema_version,
        )
    return manifest


def find_manifest(location: Location, kind: Kind) -> Manifest | None:
    """Return the manifest as `read_manifest` does, or None if there is no finished artifact."""
    try:
        return read_manifest(location, kind)
    except ArtifactNotFoundError:
        return None


def finished(
    location: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """Return the manifest if this run's artifact is finished at `location`; None if none is.

    Raises ArtifactMismatchError, naming the fields that differ, if another run made the artifact.
    """
    manifest = find_manifest(location, kind)
    if manifest is None:
        return None
    if manifest.run == run_fingerprint(kind, config, inputs):
        logger.info("%s: already exists", location)
        return manifest
    raise mismatch(
        f"{location}: contains the {kind} of another run:",
        {**manifest.config, "inputs": manifest.inputs},
        {**config, "inputs": dict(inputs)},
        _ADVICE,
    )


def claim(
    folder: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Record in the folder that it belongs to this run, unless it already has a record.

    config, inputs: the same as the manifest will have. Raises ArtifactMismatchError, naming the
    fields that differ, if the folder belongs to another run.
    """
    run = run_fingerprint(kind, config, inputs)
    record = Claim(run=run, config=dict(config), inputs=dict(inputs))
    if (folder / RUN_RECORD).create_bytes(record.to_bytes()):
        return
    stored = Claim.read(folder / RUN_RECORD)
    if stored.run != run:
        raise mismatch(
            f"{folder}: belongs to another run of kind {kind}, which was started but not finished:",
            {**stored.config, "inputs": stored.inputs},
            {**config, "inputs": dict(inputs)},
            _ADVICE,
        )


def delete_artifact(location: Location, *records: str) -> None:
    """Delete an artifact, its manifest and `records` first; `DELETING` marks what remains."""
    (location / DELETING).write_bytes(b"")
    for name in (MANIFEST, *records):
        (location / name).delete()
    location.delete_all_but(DELETING)
    location.delete()


def write_contents(location: Location, contents: Mapping[str, bytes | str]) -> dict[str, str]:
    """Write files below `location`, text as UTF-8; return their content hashes by name."""
    hashes = {}
    for name, content in contents.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        (location / name).write_bytes(data)
        hashes[name] = content_hash(data)
    return hashes


def read_content(location: Location, manifest: Manifest, name: str, *, remedy: str) -> bytes:
    """Return a file's content; raise ArtifactMismatchError if it is missing or was changed.

    remedy: what the error message tells the user to do.
    """
    with _named_by_manifest(location / name, remedy):
        data = (location / name).read_bytes()
    _check_content(location, manifest, name, content_hash(data), remedy)
    return data


def download(location: Location, manifest: Manifest, name: str, path: Path, *, remedy: str) -> None:
    """Copy a file to the local path `path`; raise the same errors as `read_content`."""
    file, digest = location / name, hashlib.sha256()
    with _named_by_manifest(file, remedy), storage_errors(file.uri):
        starts = range(0, int(file.fs.size(file.path)), PART_BYTES)
    with path.open("wb") as copy:
        for part in request_each(lambda start: file.read_range(start, PART_BYTES), starts):
            digest.update(part)
            copy.write(part)
    _check_content(location, manifest, name, digest.hexdigest()[:16], remedy)


@contextmanager
def _named_by_manifest(file: Location, remedy: str) -> Iterator[None]:
    try:
        yield
    except StorageNotFoundError as error:
        raise ArtifactMismatchError(
            f"{file}: the manifest names this file, but it does not exist; {remedy}",
            code="missing_file",
            key=file.name,
        ) from error


def _check_content(
    location: Location, manifest: Manifest, name: str, content: str, remedy: str
) -> None:
    if content != manifest.files[name]:
        raise ArtifactMismatchError(
            f"{location / name}: its content differs from the manifest; {remedy}",
            code="changed_file",
            key=name,
        )
