"""An artifact: a folder at a URI with a `manifest.json`, which is written last.

A folder without one holds no artifact.

The manifest says what the artifact is, from what it was made and with which settings. It has two
fingerprints. `run` covers kind, settings and inputs, so it is known before the work: it tells
whether an output belongs to this run. `fingerprint` covers the content too (that of a dataset
nothing else): artifacts that are made from this one record it among their inputs.

Explanations and recommendations are tables (xrec.bulk): their manifest stands in the commit that
published them, and names no files.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, StorageNotFoundError
from xrec.storage.location import Location, request_each, storage_errors
from xrec.version import __version__

logger = logging.getLogger("xrec")

MANIFEST = "manifest.json"
RUN_RECORD = "run.json"
"""Whose run a folder is, written before anything else; see `Claim`."""
SCHEMA_VERSION = 1
_PART_BYTES = 2**24
_ADVICE = "give another output URI, or let xrec run --redo make it again"

Kind = Literal[
    "annotations",
    "dataset",
    "graph",
    "aspects",
    "recommendations",
    "llm",
    "examples",
    "adapter",
    "baseline",
    "explanations",
    "evaluation",
    "comparison",
    "texts",
]
TABLES: tuple[Kind, ...] = ("explanations", "recommendations")
"""The artifacts that are tables with versions."""

_MADE_BY: Mapping[Kind, str] = {
    "annotations": "xrec annotate",
    "dataset": "xrec prepare",
    "graph": "xrec pretrain-graph",
    "aspects": "xrec train-aspects",
    "recommendations": "xrec recommend",
    "llm": "xrec build-sample-llm",
    "adapter": "xrec train-adapter",
    "baseline": "xrec lab compare",
    "explanations": "xrec backfill",
    "evaluation": "xrec evaluate",
    "comparison": "xrec lab compare",
}
"""The commands that make the artifacts, for messages."""


class Record(BaseModel):
    """What a file of JSON says; a field that its class does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @classmethod
    def read(cls, file: Location) -> Self:
        """What the file says; raises ArtifactMismatchError if this xrec cannot read it."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            why = ": ".join(map(str, (*first["loc"], first["msg"])))
            raise ArtifactMismatchError(
                f"{file}: not a record that this xrec reads ({why}); use the xrec that wrote it "
                f"(this is {__version__}), or give another output URI",
                code="unreadable_record",
                key=file.name,
                saw=why,
            ) from error

    def to_bytes(self) -> bytes:
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        return f"{text}\n".encode()


class Claim(Record):
    """What `RUN_RECORD` holds: whose run a folder is."""

    run: str
    config: dict[str, Any]
    inputs: dict[str, str]


class Manifest(Record):
    """What `manifest.json` holds.

    version: of the table, if the artifact is one; `files` is then empty.
    """

    kind: Kind
    schema_version: int
    config: dict[str, Any]
    inputs: dict[str, str]
    run: str
    fingerprint: str
    files: dict[str, str]
    row_counts: dict[str, int]
    metrics: dict[str, Any]
    code_version: str
    created_at: str
    version: int | None = None


def fingerprint_of(value: Any) -> str:
    """16 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def content_hash(data: bytes) -> str:
    """16 hex digits of the SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()[:16]


def run_fingerprint(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The fingerprint of the run that makes an artifact.

    It covers the kind, the settings that the content depends on, and the inputs.
    """
    return fingerprint_of([kind, SCHEMA_VERSION, dict(config), dict(inputs)])


def finished(
    location: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """The manifest if this very run was finished at `location`; None if nothing is finished there.

    Raises ArtifactMismatchError, with the fields that differ, if another run's artifact is there. A
    table may have the rows of another run, which the next one replaces: None then.
    """
    manifest = manifest_there(location, kind)
    if manifest is None:
        return None
    if manifest.run == run_fingerprint(kind, config, inputs):
        logger.info("%s: already there", location)
        return manifest
    if kind in TABLES:
        return None
    raise mismatch(
        f"{location}: holds the {kind} of another run:",
        {**manifest.config, "inputs": manifest.inputs},
        {**config, "inputs": dict(inputs)},
        _ADVICE,
    )


def claim(
    folder: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Make the folder this run's by `RUN_RECORD`; it may be this run's already.

    `config` and `inputs` are what `write_manifest` takes. Raises ArtifactMismatchError if the
    folder is another run's, and names each field that differs with both values.
    """
    run = run_fingerprint(kind, config, inputs)
    record = Claim(run=run, config=dict(config), inputs=dict(inputs))
    if (folder / RUN_RECORD).create_bytes(record.to_bytes()):
        return
    there = Claim.read(folder / RUN_RECORD)
    if there.run == run:
        return
    raise mismatch(
        f"{folder}: holds another run of kind {kind}, begun and not finished:",
        {**there.config, "inputs": there.inputs},
        {**config, "inputs": dict(inputs)},
        _ADVICE,
    )


def mismatch(
    what: str, there: Mapping[str, Any], here: Mapping[str, Any], advice: str
) -> ArtifactMismatchError:
    """The error that says what is wrong, names each field that differs, and says what to do."""
    changed = differing_fields(there, here)
    return ArtifactMismatchError(
        "\n".join([what, *(f"  {line}" for line in changed), advice]),
        code="another_run",
        key=changed[0].partition(":")[0] if changed else "",
        saw=changed,
    )


def make_manifest(
    kind: Kind,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    files: Mapping[str, str] | None = None,
    version: int | None = None,
    content: Any = None,
    fingerprint: str | None = None,
    row_counts: Mapping[str, int] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of an artifact.

    files: the content hash of each file, by its path below the artifact's location.
    version: of the table instead, if the artifact is one.
    content: what tells this content from others of the same run, as a JSON value; `files` or
        `version` if it is None.
    fingerprint: of the content alone, if later stages need not know what it was made from.
    config: plain JSON values, and only settings that the content depends on.
    inputs: the fingerprints of what the artifact was made from.
    """
    run = run_fingerprint(kind, config, inputs)
    if content is None:
        content = dict(files or {}) if version is None else version
    return Manifest(
        kind=kind,
        schema_version=SCHEMA_VERSION,
        config=dict(config),
        inputs=dict(inputs),
        run=run,
        fingerprint=fingerprint or fingerprint_of([run, content]),
        files=dict(files or {}),
        row_counts=dict(row_counts or {}),
        metrics=dict(metrics or {}),
        code_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version,
    )


def write_manifest(location: Location, kind: Kind, **parts: Any) -> Manifest:
    """Finish an artifact: write its manifest, made of `parts` by `make_manifest`, and return it."""
    manifest = make_manifest(kind, **parts)
    (location / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def read_manifest(location: Location, kind: Kind) -> Manifest:
    """The manifest at `location`; that of a table is of its newest version.

    Raises ArtifactNotFoundError if there is none, ArtifactMismatchError if it is of another kind or
    schema version.
    """
    if kind in TABLES:
        # It imports deltalake, which most commands do not need.
        from xrec.storage.delta import manifest_of_log, the_log

        return _of_kind(manifest_of_log(the_log(location)), location, kind)
    try:
        return _of_kind(Manifest.read(location / MANIFEST), location, kind)
    except StorageNotFoundError as error:
        job = f"run {_MADE_BY[kind]} first" if kind in _MADE_BY else "run its job first"
        if "/nights/" in location.uri:
            job = "put it back, or roll back to texts of another night (xrec table history)"
        raise ArtifactNotFoundError(
            f"{location}: no {kind} artifact ({MANIFEST} is missing): it was never made, or its "
            f"job did not finish; {job}, or check the URI",
            code="no_artifact",
            key=kind,
        ) from error


def manifest_there(location: Location, kind: Kind) -> Manifest | None:
    """As `read_manifest`; None if there is no finished artifact."""
    try:
        return read_manifest(location, kind)
    except ArtifactNotFoundError:
        return None


def ancestry(manifest: Manifest, name: str) -> list[str]:
    """Its fingerprint, and those in its metric `name`: what came before it, the last first."""
    return [manifest.fingerprint, *manifest.metrics.get(name, ())]


def _of_kind(manifest: Manifest, location: Location, kind: Kind) -> Manifest:
    if manifest.kind != kind:
        raise ArtifactMismatchError(
            f"{location}: holds a {manifest.kind} artifact, expected a {kind} artifact; "
            "check the URI",
            code="another_kind",
            key=str(location),
            saw=manifest.kind,
        )
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactMismatchError(
            f"{location}: schema version {manifest.schema_version}, this xrec reads "
            f"{SCHEMA_VERSION}; make it again, or use the xrec that wrote it",
            code="another_schema",
            key="schema_version",
            saw=manifest.schema_version,
        )
    return manifest


def differing_fields(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """A line for each value that differs: `field: <value there> there, <value here> here`.

    A field that one side lacks, as an older xrec's may, is "nothing" there.
    """
    lines: list[str] = []
    for key in sorted({*there, *here}):
        if isinstance(there.get(key), Mapping) and isinstance(here.get(key), Mapping):
            lines += differing_fields(there[key], here[key], f"{prefix}{key}.")
            continue
        left, right = ([side[key]] if key in side else [] for side in (there, here))
        if left != right:
            shown = (repr(*side) if side else "nothing" for side in (left, right))
            lines.append("{}{}: {} there, {} here".format(prefix, key, *shown))
    return lines


def write_contents(location: Location, contents: Mapping[str, bytes | str]) -> dict[str, str]:
    """Write the files below `location`, text as UTF-8; returns each one's content hash."""
    hashes = {}
    for name, content in contents.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        (location / name).write_bytes(data)
        hashes[name] = content_hash(data)
    return hashes


def read_content(location: Location, manifest: Manifest, name: str, *, remedy: str) -> bytes:
    """A file of the artifact; raises ArtifactMismatchError if it is missing or another one.

    remedy: what to do then.
    """
    with _of_manifest(location / name, remedy):
        data = (location / name).read_bytes()
    _check_content(location, manifest, name, content_hash(data), remedy)
    return data


def download(location: Location, manifest: Manifest, name: str, path: Path, *, remedy: str) -> None:
    """Write a file of the artifact to the local `path`, in parts of 16 MiB; raises the same."""
    file, digest = location / name, hashlib.sha256()
    with _of_manifest(file, remedy), storage_errors(file.uri):
        starts = range(0, int(file.fs.size(file.path)), _PART_BYTES)
    with path.open("wb") as copy:
        for part in request_each(lambda start: file.read_range(start, _PART_BYTES), starts):
            digest.update(part)
            copy.write(part)
    _check_content(location, manifest, name, digest.hexdigest()[:16], remedy)


@contextmanager
def _of_manifest(file: Location, remedy: str) -> Iterator[None]:
    try:
        yield
    except StorageNotFoundError as error:
        raise ArtifactMismatchError(
            f"{file}: the manifest names this file, and it is not there; {remedy}",
            code="missing_file",
            key=file.name,
        ) from error


def _check_content(
    location: Location, manifest: Manifest, name: str, content: str, remedy: str
) -> None:
    if content != manifest.files[name]:
        raise ArtifactMismatchError(
            f"{location / name}: its content is not what the manifest says; {remedy}",
            code="changed_file",
            key=name,
        )
