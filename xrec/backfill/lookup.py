"""Looks up the explanations of single pairs and users in a finished backfill, for xrec.serve."""

from dataclasses import dataclass

import pyarrow as pa

from xrec.backfill.reader import finished_manifest
from xrec.bulk.lookup import LookupCache, RowLookup
from xrec.bulk.plan import read_record
from xrec.config.shared import StorageConfig
from xrec.data.evidence import NamedEvidence
from xrec.errors import ArtifactMismatchError
from xrec.schemas import GENERATED, PAIRS
from xrec.storage import Manifest, differing_fields, open_location
from xrec.table import Table


@dataclass(frozen=True)
class Explained:
    """An explanation of the backfill; the fields are columns of the schema GENERATED."""

    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: str
    model_fingerprint: str
    kind: str
    aspects: tuple[NamedEvidence, ...]


class ExplanationLookup:
    """Looks explanations up at the version of the table that `manifest` names.

    It never changes. A later version has another manifest, and needs another `ExplanationLookup`,
    which may share the cache.
    """

    def __init__(self, manifest: Manifest, rows: RowLookup, cache: LookupCache):
        self.manifest, self.cache = manifest, cache
        self._rows = rows

    @property
    def num_rows(self) -> int:
        """How many explanations the backfill has."""
        return self._rows.num_rows

    def in_memory(self, user_id: str, item_id: str) -> tuple[bool, Explained | None]:
        """Look the pair up in memory only, without waiting for a file.

        Returns (True, the explanation, or None if the backfill has none), or (False, None) if a
        file must be read to decide it.
        """
        rows = self._rows.in_memory(user_id, item_id)
        return (False, None) if rows is None else (True, _explained(rows))

    def find(self, user_id: str, item_id: str) -> Explained | None:
        """Return the explanation of a pair, or None if the backfill has none; may read files.

        Raises StorageError if a file cannot be reached, and DataError if it is broken.
        """
        return _explained(self._rows.find(user_id, item_id))

    def read_footers(self) -> int:
        """Read ahead what the first look-up in each file needs; see `RowLookup.read_footers`."""
        return self._rows.read_footers()

    def of_user(self, user_id: str) -> pa.Table:
        """Return all explanations of a user (schema GENERATED), by item; reads and raises as
        `find` does.
        """
        return self._rows.find(user_id)


def open_lookup(
    uri: str,
    expected_inputs: dict[str, str],
    cache: LookupCache,
    storage: StorageConfig | None = None,
) -> ExplanationLookup:
    """Return a lookup of the finished explanations at `uri`.

    `expected_inputs` are the fingerprints of base_model, adapter and graph that the reader has.
    Raises ArtifactNotFoundError if nothing is finished there, and ArtifactMismatchError if an
    older xrec wrote the explanations or, which it names, another model.
    """
    output = open_location(uri, storage)
    manifest = finished_manifest(output)
    differences = differing_fields(
        {name: manifest.inputs.get(name) for name in expected_inputs}, expected_inputs
    )
    if differences:
        raise ArtifactMismatchError(
            f"{output}: these explanations are of another model:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\ngive the backfill of this adapter (explanations=URI), run one, "
            "or serve the adapter that wrote these explanations"
        )
    rows = RowLookup(
        output,
        Table.open(uri, storage=storage).snapshot(manifest.version),
        GENERATED,
        num_keys=len(PAIRS),
        num_buckets=read_record(output).num_buckets,
        cache=cache,
    )
    return ExplanationLookup(manifest, rows, cache)


def _explained(rows: pa.Table) -> Explained | None:
    """The one row as an explanation, None if there is none."""
    if not rows.num_rows:
        return None
    (row,) = rows.to_pylist()
    return Explained(
        row["explanation"],
        row["num_prompt_tokens"],
        row["num_generated_tokens"],
        row["finish_reason"],
        row["model_fingerprint"],
        row["kind"],
        tuple(NamedEvidence(**evidence) for evidence in row["aspects"]),
    )
