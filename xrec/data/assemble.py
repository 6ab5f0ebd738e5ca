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
from xrec.data.dataset import pair_keys
from xrec.data.rows import SPLITS, reject
from xrec.data.source import Finding, SourceData
from xrec.data.splits import split_pairs
from xrec.errors import DataError

Findings = tuple[Finding, ...]


@dataclass(frozen=True)
class Assembled:
    """The tables by name (schemas of xrec.schemas), the rows left out, metrics for the manifest."""

    tables: Mapping[str, pa.Table]
    findings: Findings
    metrics: Mapping[str, Any]


def assemble(source: SourceData, shares: SplitShares) -> Assembled:
    """The dataset's tables from a source's rows.

    Pairs of unknown users or items, empty explanations, and all but the first of repeated pairs are
    left out and returned as findings. The tables may be empty: see `check_not_empty`.
    """
    interactions, of_interactions = _usable(source.interactions, source, shares)
    explanations = source.explanations
    is_empty = pc.equal(explanations["explanation"], "")
    explanations, empty = reject(explanations, is_empty, "empty explanation")
    explanations, of_explanations = _usable(explanations, source, shares)
    given = _sorted(interactions, schemas.INTERACTIONS)
    explained = _sorted(explanations, schemas.EXPLANATIONS)
    leaking = _is_held_out_edge(given, explained)
    kept = given.filter(pa.array(~leaking))
    assert not _is_held_out_edge(kept, explained).any(), (
        "a held-out explanation pair is still a training edge"
    )
    tables = {
        "users": _numbered(source.users, "user_index", schemas.USERS),
        "items": _numbered(source.items, "item_index", schemas.ITEMS),
        "interactions": kept,
        "explanations": explained,
        **_of_pairs(source),
        **_aspects(source, shares),
    }
    metrics = {
        "num_removed_edges": int(leaking.sum()),
        **_count_splits(tables),
        **_count_without_edges(tables),
    }
    return Assembled(tables, source.findings + of_interactions + empty + of_explanations, metrics)


def _is_held_out_edge(interactions: pa.Table, explanations: pa.Table) -> npt.NDArray[np.bool_]:
    """(N,) bool for N interactions: in train, while the pair's explanation is not."""
    held_out = explanations.filter(pc.not_equal(explanations["split"], "train"))
    is_train = pc.equal(interactions["split"], "train").to_numpy()
    return np.asarray(np.isin(pair_keys(interactions), pair_keys(held_out)) & is_train)


def _usable(pairs: pa.Table, source: SourceData, shares: SplitShares) -> tuple[pa.Table, Findings]:
    """The rows of known users and items, each pair once, with indices; findings for the others."""
    findings: Findings = ()
    for key, known in (("user_id", source.users), ("item_id", source.items)):
        is_unknown = pc.is_null(_index_in(pairs, key, known))
        pairs, unknown = reject(pairs, is_unknown, f"unknown {key}")
        findings += unknown
    repeated = pairs.select(["user_id", "item_id"]).to_pandas().duplicated().to_numpy(dtype=bool)
    pairs, duplicates = reject(pairs, pa.array(repeated), "duplicate of an earlier pair")
    return _indexed(_with_splits(pairs, shares), source), findings + duplicates


def _with_splits(pairs: pa.Table, shares: SplitShares) -> pa.Table:
    """`pairs`, of which those without a split get that of their hash."""
    without = pairs.filter(pc.is_null(pairs["split"]))
    hashed = split_pairs(without["user_id"].to_pylist(), without["item_id"].to_pylist(), shares)
    given = pairs["split"].combine_chunks()
    splits = pc.replace_with_mask(given, pc.is_null(given), pa.array(hashed, pa.string()))
    return pairs.set_column(pairs.schema.get_field_index("split"), "split", splits)


def _indexed(pairs: pa.Table, source: SourceData) -> pa.Table:
    for key, known in (("user_id", source.users), ("item_id", source.items)):
        pairs = pairs.append_column(key.replace("_id", "_index"), _index_in(pairs, key, known))
    return pairs


def _index_in(pairs: pa.Table, column: str, known: pa.Table) -> Any:
    """The row of `known` for each pair, int32; null where the id is unknown."""
    return pc.index_in(pairs[column], known[column].combine_chunks())


def _sorted(pairs: pa.Table, schema: pa.Schema) -> pa.Table:
    """`pairs` in `schema`, by user and item."""
    pairs = pairs.select(schema.names)
    return pairs.sort_by([("user_index", "ascending"), ("item_index", "ascending")]).cast(schema)


def _numbered(entities: pa.Table, index: str, schema: pa.Schema) -> pa.Table:
    """Users or items with their row as `index`."""
    rows = pa.array(np.arange(entities.num_rows, dtype=np.int32))
    return entities.append_column(index, rows).select(schema.names).cast(schema)


def _of_pairs(source: SourceData) -> dict[str, pa.Table]:
    """The tables of explained pairs that not every source has."""
    named = {"training_profiles": schemas.TRAINING_PROFILES, "planted": schemas.PLANTED}
    return {
        name: _sorted(_indexed(pairs, source), schema)
        for name, schema in named.items()
        if (pairs := getattr(source, name)) is not None
    }


def _aspects(source: SourceData, shares: SplitShares) -> dict[str, pa.Table]:
    if source.aspects is None:
        return {}
    named = _with_splits(source.aspects, shares)
    tables = aspect_tables(named, source.users, source.items)
    low_rated = source.low_rated_aspects
    if low_rated is not None:
        rows = low_rated_aspects(low_rated, tables["aspects"], source.items)
        tables["low_rated_aspects"] = rows
    return tables


def check_not_empty(tables: Mapping[str, pa.Table]) -> None:
    """Raise DataError if there are no users, no items, or no interactions to train on."""
    for name in ("users", "items"):
        if tables[name].num_rows == 0:
            raise DataError(
                f"no usable {name}: the dataset would be empty; check the source's files"
            )
    if not _of_split(tables["interactions"], "train").num_rows:
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
