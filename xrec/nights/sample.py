"""A sample of a run's texts with the published ones, for the gate's figures and for people."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.backfill.identity import shared_key
from xrec.bulk import OK, BulkRun, Identity, Published, final_rows, published, read_takedowns
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.nights.figures import Rows, Values, aspect_counts
from xrec.nights.shop import kept_shares, own_shares
from xrec.schemas import GENERATED, PAIRS

SAMPLE_ROWS = 20_000
_NUM_SHOWN, _NUM_USERS = 30, 1000


class Sample(NamedTuple):
    """Some explanations of a run, and the published ones for the same users.

    shop: the figures of xrec.nights.shop.
    table: the published version; None if nothing is published, or an older xrec published it.
    is_alike: whether the same model wrote that version with the same settings, so that only pairs
        whose inputs changed were written again.
    """

    new: Rows
    old: Rows
    shop: Values
    table: Published | None = None
    is_alike: bool = False

    @property
    def version(self) -> int | None:
        """The published version, or None."""
        return None if self.table is None else self.table.version

    @property
    def made_from(self) -> Mapping[str, str]:
        """The URIs of the published version's artifacts by kind, as written in its manifest."""
        return {} if self.table is None else self.table.manifest.metrics.get("made_from", {})


def sample_of(run: BulkRun, num_items: int) -> Sample:
    """Return the rows of whole chunks spread evenly over the plan, always the same ones.

    num_items: the number of items in the dataset. Raises BrokenResultError if a result cannot be
    read.
    """
    passes, taken, num_chunks = run.passes(), read_takedowns(run.output), run.record.size.num_chunks
    num_wanted = min(num_chunks, -(-SAMPLE_ROWS * num_chunks // run.record.num_rows))
    chosen = np.unique(np.linspace(0, num_chunks - 1, num_wanted).astype(int)).tolist()
    chunks = final_rows(run.format, passes, chosen)
    rows = pa.concat_tables(taken.without(rows) for rows, _ in chunks)
    shop = own_shares(rows, num_items)
    new = _by_pair(rows.filter(pc.equal(rows["status"], OK)))
    try:
        table = published(run.output.uri, storage=run.storage)
        old = _published_rows(table, rows["user_id"].unique().to_pylist())
    except (ArtifactNotFoundError, ArtifactMismatchError):  # nothing published, or an older xrec's
        return Sample(new, {}, shop)
    shop |= kept_shares(run, chosen, rows, table)
    identity, manifest = run.record.identity, table.manifest
    old_identity = Identity(kind=identity.kind, config=manifest.config, inputs=manifest.inputs)
    is_alike = shared_key(identity) == shared_key(old_identity)
    return Sample(new, old, shop, table, is_alike)


def diff_lines(
    uri: str, old: int, new: int, seed: int, storage: StorageConfig | None = None
) -> Iterator[str]:
    """Return lines that show pairs whose text differs between two versions of a table.

    Compares the texts of about a thousand users. Raises what `published` raises.
    """
    before, after = (published(uri, version=version, storage=storage) for version in (old, new))
    rows, users, buckets = after.dataset(PAIRS, None), list[str](), range(after.num_buckets)
    for bucket in random.Random(seed).sample(buckets, len(buckets)):
        ids = rows.to_table(columns=["user_id"], filter=pc.field("bucket") == bucket)["user_id"]
        users += ids.unique().to_pylist()
        if len(users) >= _NUM_USERS:
            break
    return side_by_side(_published_rows(after, users), _published_rows(before, users), seed)


def side_by_side(new: Rows, old: Rows, seed: int = 0) -> Iterator[str]:
    """Yield the old and new text of up to thirty pairs whose texts differ, and the reason."""
    nothing = {"explanation": "(no text)"}
    both = {p: (old.get(p, nothing), new.get(p, nothing)) for p in sorted(new.keys() | old.keys())}
    differing = [p for p, rows in both.items() if rows[0]["explanation"] != rows[1]["explanation"]]
    yield f"{len(differing)} of {len(both)} pairs differ"
    for pair in sorted(random.Random(seed).sample(differing, min(_NUM_SHOWN, len(differing)))):
        yield f"\n{' '.join(pair)}: {_reason(*both[pair])}"
        for mark, row in zip("-+", both[pair], strict=True):
            yield f"  {mark} {row['explanation']}"


def _reason(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return why a pair's text may differ, judging by its two rows."""
    if len(old) == 1 or len(new) == 1:
        return "new" if len(old) == 1 else "no longer has a text"
    names = ("model_fingerprint", "content_key", "kind", "refused")
    changes = [f"{name} {old[name]} -> {new[name]}" for name in names if old[name] != new[name]]
    before, now = (", ".join(aspect_counts([row])) for row in (old, new))
    return "; ".join([*changes, *([f"aspects {before} -> {now}"] if before != now else [])])


def _published_rows(table: Published, user_ids: Sequence[str]) -> Rows:
    return _by_pair(table.find(table.dataset(GENERATED), "user_id", user_ids or [""]))


def _by_pair(rows: pa.Table) -> Rows:
    columns = rows.select(GENERATED.names).to_pylist()
    return {(row["user_id"], row["item_id"]): row for row in columns}
