"""What a job makes, known before the work: where it lies, and from which settings and inputs.

Each job's module has `output(config, *, exact=True) -> Output`, which does none of the job's work.
The job uses it to find out whether its artifact is there already, `xrec run` whether to skip the
job, and `xrec status` whether the artifact is stale. Without `exact`, what would take a download or
a long read is left out and not compared.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import (
    MANIFEST,
    TABLES,
    Kind,
    Location,
    Manifest,
    differing_fields,
    finished,
    last_night,
    location_of,
    present,
    read_manifest,
)

ConfigT = TypeVar("ConfigT", bound=JobConfig)
State = Literal["missing", "begun", "up to date", "stale"]

DELETING = "_deleting"
"""An empty file below an artifact that is being deleted, which is the last one to go."""


@dataclass(frozen=True)
class Output:
    """An artifact that a job makes, or has made.

    `config` and `inputs` are what its manifest will hold. Inputs and settings in `unchecked` are
    not known, and are not compared. `known` are differences that the job found by itself, a line
    each. `records` are files, relative to `location`, that a run writes when it begins: JSON with
    its config and inputs. A table (`TABLES`) has several runs below it, and needs none.
    """

    location: Location
    kind: Kind
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    unchecked: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def done(self) -> Manifest | None:
        """For the job itself: the manifest if this very run is finished, and None if nothing is.

        A table that lacks rows whose takedown was lifted is not finished. Raises
        ArtifactMismatchError, with the fields that differ, if another run's artifact is there.
        """
        manifest = finished(self.location, self.kind, self.config, self.inputs)
        return None if manifest is not None and self._lacks_lifted() else manifest

    def found(self) -> "Found":
        """For `xrec run` and `xrec status`: what is there, and in what it differs from this run.

        Raises ArtifactMismatchError if the location holds another kind of artifact.
        """
        try:
            manifest = read_manifest(self.location, self.kind)
        except ArtifactNotFoundError:
            if (self.location / DELETING).is_file():
                return Found("stale", None, ("its deletion was interrupted",))
            return self._begun() or Found("missing")
        differences = self._differences(manifest.config, manifest.inputs)
        if not differences and self._lacks_lifted():
            differences = ("a takedown was lifted",)
        if differences:
            return Found("stale", manifest, differences)
        return Found("up to date", manifest)

    def delete(self) -> None:
        """Delete the artifact, or the begun run.

        A table stays: readers take what is published until the next run is, which replaces it.
        What is left of a deletion that is interrupted is no artifact and no run, and is deleted by
        the next call. Raises ArtifactMismatchError if the location holds anything else.
        """
        if self.kind in TABLES or not self.location.exists():
            return
        self._check_is_ours()
        delete_artifact(self.location, *self.records)

    def _check_is_ours(self) -> None:
        names = self.location.files()
        has_tables = self.kind == "annotations"  # its stages
        below = [
            each
            for each in names
            if each.endswith(f"/{MANIFEST}") or ("/_delta_log/" in each and not has_tables)
        ]
        if below:
            raise ArtifactMismatchError(
                f"{self.location}: not deleted, since it holds other artifacts ({below[0]}); "
                f"give the {self.kind} a URI of its own",
                code="holds_other_artifacts",
                saw=below[0],
            )
        if MANIFEST in names:
            read_manifest(self.location, self.kind)
        elif not any(record in names for record in (DELETING, *self.records)):
            raise ArtifactMismatchError(
                f"{self.location}: not deleted, since it is no {self.kind} of xrec; "
                "give another output URI, or delete it yourself",
                code="not_an_artifact",
                saw=self.location.uri,
            )

    def _lacks_lifted(self) -> bool:
        if self.kind not in TABLES:
            return False
        from xrec.bulk import lacks_lifted  # deltalake, which most commands do not need

        return lacks_lifted(self.location)

    def _begun(self) -> "Found | None":
        if self.kind in TABLES:
            # It imports deltalake, which most commands do not need.
            from xrec.bulk import Identity, records

            run = Identity(kind=self.kind, config=self.config, inputs=self.inputs).run
            own = (each for each in records(self.location) if each.identity.run == run)
            return Found("begun") if any(each.has_plan(self.location) for each in own) else None
        for record in self.records:
            if (self.location / record).is_file():
                there = json.loads((self.location / record).read_text())
                differences = self._differences(there["config"], there["inputs"])
                return Found("stale" if differences else "begun", None, differences)
        return None

    def _differences(self, config: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[str, ...]:
        there = {**self._compared(config), "inputs": self._compared(inputs)}
        here = {**self._compared(self.config), "inputs": self._compared(self.inputs)}
        return (*differing_fields(there, here), *self.known)

    def _compared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in self.unchecked}


def delete_artifact(location: Location, *records: str) -> None:
    """Delete all that is there; what is left of a deletion that is interrupted has `DELETING`."""
    (location / DELETING).write_bytes(b"")
    for name in (MANIFEST, *records):
        (location / name).delete()
    location.delete_all_but(DELETING)
    location.delete()


@dataclass(frozen=True)
class Found:
    """What is at an output: nothing, a begun run, this very run, or another run."""

    state: State
    manifest: Manifest | None = None
    differences: tuple[str, ...] = ()


def candidates(config: ConfigT) -> Iterator[ConfigT]:
    """The config with the artifacts of each later night, the last first; then `present(config)`."""
    number, there = last_night(config)
    nights = location_of(config, "nights")
    for each in sorted(map(int, filter(str.isdigit, nights.folders())), reverse=True):
        made = {kind: nights / str(each) / kind for kind in there}
        own = {kind: at.uri for kind, at in made.items() if (at / MANIFEST).is_file()}
        if each > number and {"dataset", "graph"} <= own.keys():
            yield present(config).model_copy(update=own)
    yield present(config)
