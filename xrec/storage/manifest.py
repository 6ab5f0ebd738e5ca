"""Manifests: what an artifact is, what it was made from, and with which settings.

A manifest has two fingerprints. `run` covers kind, settings and inputs, so it is known before the
work starts and decides whether an output belongs to this run. `fingerprint` also covers the content
(for a dataset, only the content); artifacts made from this one record it among their inputs.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from xrec.errors import ArtifactMismatchError
from xrec.storage.location import Location
from xrec.version import __version__

SCHEMA_VERSION = 2

Kind = Literal[
    "annotations",
    "dataset",
    "graph",
    "neighbors",
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


class Record(BaseModel):
    """The content of a JSON file; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @classmethod
    def read(cls, file: Location) -> Self:
        """Return the file's content; raise ArtifactMismatchError if this xrec cannot read it."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            why = ": ".join(map(str, (*first["loc"], first["msg"])))
            raise ArtifactMismatchError(
                f"{file}: xrec {__version__} cannot read this record ({why}); use the version that "
                "wrote it, or give another output URI",
                code="unreadable_record",
                key=file.name,
                saw=why,
            ) from error

    def to_bytes(self) -> bytes:
        """Return the file's content as indented JSON."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        return f"{text}\n".encode()


class Claim(Record):
    """The run that a folder belongs to."""

    run: str
    config: dict[str, Any]
    inputs: dict[str, str]


class Manifest(Record):
    """The content of `manifest.json`.

    config: the settings that the content depends on, as plain JSON values.
    inputs: the fingerprints of what the artifact was made from.
    files: the content hash of each file, by its path below the artifact's location.
    version: the table's version, if the artifact is a table; `files` is then empty.
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
    """Return a manifest with the current time; see `Manifest` for the fields.

    content: a JSON value that differs for each content that the same run may produce; by default
        the files or the version.
    fingerprint: a fingerprint of the content alone, if its origin does not matter to later jobs.
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


def ancestry(manifest: Manifest, name: str) -> list[str]:
    """Return an artifact's fingerprint, then those in its metric `name`, most recent first."""
    return [manifest.fingerprint, *manifest.metrics.get(name, ())]


def fingerprint_of(value: Any) -> str:
    """Return 16 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return content_hash(text.encode("utf-8"))


def content_hash(data: bytes) -> str:
    """Return 16 hex digits of the SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()[:16]


def run_fingerprint(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the fingerprint of the run that makes an artifact from these settings and inputs."""
    return fingerprint_of([kind, SCHEMA_VERSION, dict(config), dict(inputs)])


def mismatch(
    what: str, stored: Mapping[str, Any], given: Mapping[str, Any], advice: str
) -> ArtifactMismatchError:
    """Return an error whose message is `what`, a line for each field that differs, and `advice`."""
    changed = differing_fields(stored, given)
    return ArtifactMismatchError(
        "\n".join([what, *(f"  {line}" for line in changed), advice]),
        code="another_run",
        key=changed[0].partition(":")[0] if changed else "",
        saw=changed,
    )


def differing_fields(
    stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Return a line for each value that differs: `field: <stored> there, <given> here`.

    A field that one side lacks, such as an older xrec's, is shown as "nothing".
    """
    lines: list[str] = []
    for key in sorted({*stored, *given}):
        left, right = ([side[key]] if key in side else [] for side in (stored, given))
        if left and right and isinstance(left[0], Mapping) and isinstance(right[0], Mapping):
            lines += differing_fields(left[0], right[0], f"{prefix}{key}.")
        elif left != right:
            shown = (repr(*side) if side else "nothing" for side in (left, right))
            lines.append("{}{}: {} there, {} here".format(prefix, key, *shown))
    return lines
