"""Read published explanations: all of a version, or those of single pairs and users."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from xrec.bulk import FAILED as FAILED_STATUS
from xrec.bulk import OK, Published, file_errors, published
from xrec.config import StorageConfig
from xrec.data import NamedEvidence
from xrec.schemas import FAILED, GENERATED
from xrec.storage import ByteCache, Manifest, mismatch, storage_errors

_ENTRY_BYTES = 512  # size of a user's rows without their texts
_BEST_FIRST = [("rank", "ascending"), ("score", "descending"), ("item_id", "ascending")]


def read(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """Return the explanations at `uri` as a dataset of GENERATED, `status` and `bucket`.

    version: a version of the table, the newest by default. A version never changes, whatever is
    published later. Raises ArtifactNotFoundError if nothing is published there,
    ArtifactMismatchError if the table has other columns, TableError if it has no such version.
    """
    return published(uri, version=version, storage=storage).dataset(GENERATED, OK)


def read_failed(
    uri: str, version: int | None = None, storage: StorageConfig | None = None
) -> pads.Dataset:
    """Return the failed rows at `uri` as a dataset, with schema FAILED; otherwise like `read`."""
    return published(uri, version=version, storage=storage).dataset(FAILED, FAILED_STATUS)


def read_explanations(uri: str, storage: StorageConfig | None = None) -> pa.Table:
    """Return all explanations (schema GENERATED) in memory; raise what `read` raises."""
    with storage_errors(uri):
        return read(uri, storage=storage).to_table(columns=GENERATED.names).cast(GENERATED)


@dataclass(frozen=True)
class Explained:
    """An explanation from a backfill; the fields after `text` are columns of GENERATED."""

    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: str
    model_fingerprint: str
    kind: str
    aspects: tuple[NamedEvidence, ...]
    evidence_kind: str | None = None
    evidence_item_id: str | None = None
    evidence_category: str | None = None
    evidence_at_least: int | None = None


class ExplanationLookup:
    """A thread-safe lookup of explanations in one version of a table, which never changes.

    max_bytes: the size of the cache of users' rows.
    """

    def __init__(self, table: Published, max_bytes: int):
        self._table = table
        self._dataset = table.dataset(GENERATED, status=None)
        self._users: ByteCache[str, pa.Table] = ByteCache(max_bytes)

    @property
    def manifest(self) -> Manifest:
        return self._table.manifest

    @property
    def num_rows(self) -> int:
        return self.manifest.row_counts["explanations"]

    def in_memory(self, user_id: str, item_id: str) -> tuple[bool, Explained | None]:
        """Look up the pair in memory only, without waiting for a file.

        Returns (True, the explanation or None if there is none), or (False, None) if a file must
        be read to find out.
        """
        rows = self._users.get(user_id)
        return (False, None) if rows is None else (True, _explained(rows, item_id))

    def find(self, user_id: str, item_id: str) -> Explained | None:
        """Return the explanation of a pair, or None if there is none; may read files.

        Raises StorageError if a file cannot be reached, and DataError if it is broken.
        """
        return _explained(self.of_user(user_id), item_id)

    def read_ahead(self) -> int:
        """Read the footers of all files so that the first lookups are fast; return their number.

        Raises what `find` raises.
        """
        fragments = list(self._dataset.get_fragments())
        with file_errors(self._table.log.location):
            for fragment in fragments:
                fragment.ensure_complete_metadata()
        return len(fragments)

    def of_user(self, user_id: str) -> pa.Table:
        """Return all rows of a user, with `status` and the columns of GENERATED, best item first.

        May read files, and raises what `find` raises.
        """
        rows = self._users.get(user_id)
        if rows is None:
            rows = self._table.find(self._dataset, "user_id", [user_id])
            rows = rows.select(["status", *GENERATED.names]).sort_by(_BEST_FIRST).combine_chunks()
            self._users.put(user_id, rows, rows.nbytes + _ENTRY_BYTES)
        return rows

    @property
    def has_recommendations(self) -> bool:
        """Whether the pairs were chosen by a recommender rather than held out of a dataset."""
        return bool(self.manifest.config["pairs"]["kind"] != "split")


def open_lookup(
    uri: str,
    expected_inputs: Mapping[str, str] | None,
    max_bytes: int,
    storage: StorageConfig | None = None,
) -> ExplanationLookup:
    """Return a lookup of the explanations published at `uri`.

    expected_inputs: the fingerprints of what wrote them (`model_of`); None accepts all. Raises what
    `published` raises, and ArtifactMismatchError, which names the differing inputs, if another
    model wrote the explanations.
    """
    table = published(uri, storage=storage)
    inputs = {name: value for name, value in table.manifest.inputs.items() if name != "dataset"}
    if expected_inputs is not None and inputs != expected_inputs:
        what = f"{uri}: these explanations were written by another model:"
        advice = "set explanations=URI to a backfill of this adapter, run one, "
        advice += "or serve the adapter that wrote these explanations"
        raise mismatch(what, inputs, expected_inputs, advice)
    return ExplanationLookup(table, max_bytes)


def _explained(rows: pa.Table, item_id: str) -> Explained | None:
    """Return the explanation in the row of an item, or None if there is none."""
    found = rows.filter(pc.and_(pc.equal(rows["item_id"], item_id), pc.equal(rows["status"], OK)))
    if not found.num_rows:
        return None
    (row,) = found.to_pylist()
    row["aspects"] = tuple(NamedEvidence(**evidence) for evidence in row["aspects"])
    return Explained(row["explanation"], *(row[each.name] for each in fields(Explained)[1:]))
