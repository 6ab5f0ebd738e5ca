"""Describe a job's artifact before the job runs: its location, settings and inputs.

Comparing this with what exists there tells a job whether it is done, `xrec run` whether to skip
the job, and `xrec status` whether the artifact is stale.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xrec.errors import ArtifactMismatchError
from xrec.storage import (
    DELETING,
    MANIFEST,
    Kind,
    Location,
    Manifest,
    delete_artifact,
    differing_fields,
    find_manifest,
    finished,
    read_manifest,
)

TABLES: tuple[Kind, ...] = ("explanations",)
"""The artifacts that are versioned tables."""
State = Literal["missing", "begun", "up to date", "stale"]


@dataclass(frozen=True)
class Found:
    """What is at an output: nothing, an unfinished run, this run, or another run."""

    state: State
    manifest: Manifest | None = None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """The artifact of a job.

    Attributes:
        config, inputs: The settings and inputs in its manifest.
        unchecked: Names of inputs and settings that are unknown, and so not compared.
        known: Differences that the job itself found.
        records: Files, relative to `location`, in which an unfinished run keeps its config and
            inputs as JSON. A table has records of its runs instead.
    """

    location: Location
    kind: Kind
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    unchecked: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def done(self) -> Manifest | None:
        """Return the manifest if this run is finished, and None if there is no artifact.

        For a table of another run it returns None, because the table is replaced. For any other
        artifact of another run it raises ArtifactMismatchError with the fields that differ.
        """
        if self.kind not in TABLES:
            return finished(self.location, self.kind, self.config, self.inputs)
        found = self.found()
        return found.manifest if found.state == "up to date" else None

    def found(self) -> Found:
        """Return what exists at the location, and how it differs from this run.

        Raises ArtifactMismatchError if the location contains another kind of artifact.
        """
        manifest = self._manifest()
        if manifest is None:
            if (self.location / DELETING).is_file():
                return Found("stale", None, ("its deletion was interrupted",))
            return self._unfinished()
        differences = self._differences(manifest.config, manifest.inputs)
        if not differences and self._lacks_lifted():
            differences = ("a takedown was lifted",)
        return Found("stale" if differences else "up to date", manifest, differences)

    def delete(self) -> None:
        """Delete the artifact or the unfinished run, but not a table, which readers still use.

        An interrupted deletion leaves no artifact, and the next call completes it. Raises
        ArtifactMismatchError if the location contains anything else.
        """
        if self.kind in TABLES or not self.location.exists():
            return
        self._check_is_ours()
        delete_artifact(self.location, *self.records)

    def _check_is_ours(self) -> None:
        names = self.location.files()
        has_tables = self.kind == "annotations"  # one for each of its stages
        for name in names:
            if name.endswith(f"/{MANIFEST}") or ("/_delta_log/" in name and not has_tables):
                raise ArtifactMismatchError(
                    f"{self.location}: not deleted, because it contains other artifacts ({name}); "
                    f"give the {self.kind} a URI of its own",
                    code="holds_other_artifacts",
                    saw=name,
                )
        if MANIFEST in names:
            read_manifest(self.location, self.kind)
        elif not any(record in names for record in (DELETING, *self.records)):
            raise ArtifactMismatchError(
                f"{self.location}: not deleted, because it is not xrec's {self.kind}; "
                "give another output URI, or delete it yourself",
                code="not_an_artifact",
                saw=self.location.uri,
            )

    def _manifest(self) -> Manifest | None:
        if self.kind not in TABLES:
            return find_manifest(self.location, self.kind)
        from xrec.bulk import find_published  # imports deltalake, which most commands do not need

        return find_published(self.location, self.kind)

    def _lacks_lifted(self) -> bool:
        if self.kind not in TABLES:
            return False
        from xrec.bulk import lacks_lifted  # imports deltalake too

        return lacks_lifted(self.location)

    def _unfinished(self) -> Found:
        if self.kind in TABLES:
            from xrec.bulk import Identity, records  # imports deltalake too

            run = Identity(kind=self.kind, config=self.config, inputs=self.inputs).run
            own = (record for record in records(self.location) if record.identity.run == run)
            is_planned = any(record.has_plan(self.location) for record in own)
            return Found("begun" if is_planned else "missing")
        for name in self.records:
            if (self.location / name).is_file():
                record = json.loads((self.location / name).read_text())
                differences = self._differences(record["config"], record["inputs"])
                return Found("stale" if differences else "begun", None, differences)
        return Found("missing")

    def _differences(self, config: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[str, ...]:
        stored = {**self._compared(config), "inputs": self._compared(inputs)}
        wanted = {**self._compared(self.config), "inputs": self._compared(self.inputs)}
        return (*differing_fields(stored, wanted), *self.known)

    def _compared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in self.unchecked}
