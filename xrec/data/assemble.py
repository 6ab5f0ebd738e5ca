"""From the rows of a source to the tables of the dataset.

Ids become indices, and each pair gets a split.

A pair whose explanation is held out must not be an edge that the graph is trained on, since the
graph vectors would know the answer. In the public release about 80 % of the test pairs are training
edges; here they are removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec import schemas
from xrec.config.data import SplitShares
from xrec.data.aspects import aspect_tables, low_rated_aspects
from xrec.data.columns import SPLITS
from xrec.data.findings import Finding
from xrec.data.rows import findings_of
from xrec.data.source import SourceData
from xrec.data.splits import split_pairs
from xrec.errors import DataError


@dataclass(frozen=True)
class Assembled:
    """The tables by name (schemas of xrec.schemas), the rows left out, metrics for the manifest."""

    tables: Mapping[str, pa.Table]
    findings: tuple[Finding, ...]
    metrics: Mapping[str, Any]


def assemble(source: SourceData, shares: SplitShares) -> Assembled:
    """The dataset's tables from a source's rows.

    Pairs of unknown users or items, empty explanations, and all but the first of repeated pairs are
    left out and returned as findings. The tables may be empty: see `check_not_empty`.
    """
    interactions, interaction_findings = _usable(source.interactions, source)
    explanations, explanation_findings = _usable_explanations(source)
    interactions = _pair_table(interactions, source, shares, schemas.INTERACTIONS)
    ratings = _ratings(explanations, source, shares)
    explanations = _pair_table(explanations, source, shares, schemas.EXPLANATIONS)
    leaking = _is_held_out_edge(interactions, explanations)
    kept = interactions.filter(pa.array(~leaking))
    assert not _is_held_out_edge(kept, explanations).any(), (
        "a held-out explanation pair is still a training edge"
    )
    tables = {
        "users": _numbered(source.users, "user_index", schemas.USERS),
        "items": _numbered(source.items, "item_index", schemas.ITEMS),
        "interactions": kept,
        "explanations": explanations,
    }
    if ratings is not None:
        tables["ratings"] = ratings
    if source.planted is not None:
        tables["planted"] = _planted(source.planted, source)
    if source.aspects is not None:
        named = _with_splits(source.aspects, shares)
        tables.update(aspect_tables(named, source.users, source.items))
        if source.low_rated_aspects is not None:
            tables["low_rated_aspects"] = low_rated_aspects(
                source.low_rated_aspects, tables["aspects"], source.items
            )
    metrics = {
        "num_removed_edges": int(leaking.sum()),
        **_count_splits(tables),
        **_count_without_edges(tables),
    }
    return Assembled(tables, source.findings + interaction_findings + explanation_findings, metrics)


def _is_held_out_edge(interactions: pa.Table, explanations: pa.Table) -> npt.NDArray[np.bool_]:
    """(N,) bool for N interactions: in train, while the pair's explanation is not."""
    held_out = explanations.filter(pc.not_equal(explanations["split"], "train"))
    is_train = pc.equal(interactions["split"], "train").to_numpy()
    return np.asarray(np.isin(_pair_keys(interactions), _pair_keys(held_out)) & is_train)


def _pair_keys(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """One int64 a pair; ordered by user, then item."""
    users = pairs["user_index"].to_numpy().astype(np.int64)
    return np.asarray((users << 32) + pairs["item_index"].to_numpy())


def _usable_explanations(source: SourceData) -> tuple[pa.Table, tuple[Finding, ...]]:
    is_empty = pc.equal(source.explanations["explanation"], "")
    kept, empty = _reject(source.explanations, is_empty, "empty explanation")
    usable, findings = _usable(kept, source)
    return usable, empty + findings


def _usable(pairs: pa.Table, source: SourceData) -> tuple[pa.Table, tuple[Finding, ...]]:
    """The rows of known users and items, each pair once; findings for all other rows."""
    pairs, unknown_users = _reject(
        pairs, pc.is_null(_index_in(pairs, "user_id", source.users)), "unknown user_id"
    )
    pairs, unknown_items = _reject(
        pairs, pc.is_null(_index_in(pairs, "item_id", source.items)), "unknown item_id"
    )
    repeated = pairs.select(["user_id", "item_id"]).to_pandas().duplicated().to_numpy()
    pairs, duplicates = _reject(
        pairs, pa.array(repeated, pa.bool_()), "duplicate of an earlier pair"
    )
    return pairs, unknown_users + unknown_items + duplicates


def _reject(rows: pa.Table, is_bad: Any, reason: str) -> tuple[pa.Table, tuple[Finding, ...]]:
    return rows.filter(pc.invert(is_bad)), findings_of(rows.filter(is_bad), reason)


def _pair_table(
    pairs: pa.Table, source: SourceData, shares: SplitShares, schema: pa.Schema
) -> pa.Table:
    """`pairs` in `schema`, by user and item; the hash of a pair gives a split that is missing."""
    columns = {**_indices(pairs, source), "split": _splits(pairs, shares)}
    if "explanation" in schema.names:
        columns["explanation"] = pairs["explanation"]
    return _sorted(pa.table(columns)).select(schema.names).cast(schema)


def _ratings(explanations: pa.Table, source: SourceData, shares: SplitShares) -> pa.Table | None:
    """The ratings of training explanations (schema RATINGS); None if the source has none."""
    if "rating" not in explanations.column_names:
        return None
    is_train = pc.equal(_splits(explanations, shares), "train")
    rated = explanations.filter(pc.and_(is_train, pc.is_valid(explanations["rating"])))
    if not rated.num_rows:
        return None
    rating = rated["rating"].cast(pa.float32())
    return _sorted(pa.table({**_indices(rated, source), "rating": rating})).cast(schemas.RATINGS)


def _splits(pairs: pa.Table, shares: SplitShares) -> Any:
    without = pairs.filter(pc.is_null(pairs["split"]))
    hashed = split_pairs(without["user_id"].to_pylist(), without["item_id"].to_pylist(), shares)
    column = pairs["split"].combine_chunks()
    return pc.replace_with_mask(column, pc.is_null(column), pa.array(hashed, pa.string()))


def _with_splits(pairs: pa.Table, shares: SplitShares) -> pa.Table:
    place = pairs.schema.get_field_index("split")
    return pairs.set_column(place, "split", _splits(pairs, shares))


def _indices(pairs: pa.Table, source: SourceData) -> dict[str, Any]:
    return {
        "user_index": _index_in(pairs, "user_id", source.users),
        "item_index": _index_in(pairs, "item_id", source.items),
    }


def _index_in(pairs: pa.Table, column: str, known: pa.Table) -> Any:
    """The row of `known` for each pair, int32; null where the id is unknown."""
    return pc.index_in(pairs[column], known[column].combine_chunks())


def _sorted(pairs: pa.Table) -> pa.Table:
    return pairs.sort_by([("user_index", "ascending"), ("item_index", "ascending")])


def _numbered(entities: pa.Table, index: str, schema: pa.Schema) -> pa.Table:
    """Users or items with their row as `index`."""
    rows = pa.array(np.arange(entities.num_rows, dtype=np.int32))
    return entities.append_column(index, rows).select(schema.names).cast(schema)


def _planted(planted: pa.Table, source: SourceData) -> pa.Table:
    table = pa.table(
        {**_indices(planted, source), "aspect": planted["aspect"], "aspects": planted["aspects"]}
    )
    return _sorted(table).cast(schemas.PLANTED)


def check_not_empty(tables: Mapping[str, pa.Table]) -> None:
    """Raise DataError if there are no users, no items, or no interactions to train on."""
    for name in ("users", "items"):
        if tables[name].num_rows == 0:
            raise DataError(
                f"no usable {name}: the dataset would be empty; check the source's files"
            )
    if not pc.any(pc.equal(tables["interactions"]["split"], "train")).as_py():
        raise DataError(
            "no interaction is left for training: check the source's interactions, and "
            "splits.validation and splits.test"
        )


def _count_splits(tables: Mapping[str, pa.Table]) -> dict[str, dict[str, int]]:
    return {
        f"num_{name}": {split: _of_split(tables[name], split).num_rows for split in SPLITS}
        for name in ("interactions", "explanations")
    }


def _count_without_edges(tables: Mapping[str, pa.Table]) -> dict[str, int]:
    train = _of_split(tables["interactions"], "train")
    return {
        f"num_{what}s_without_train_edge": tables[f"{what}s"].num_rows
        - pc.count_distinct(train[f"{what}_index"]).as_py()
        for what in ("user", "item")
    }


def _of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))
