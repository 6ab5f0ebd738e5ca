"""From the rows of a source to the tables of the dataset.

Ids become indices, in the order of the ids, and each pair gets a split. Nothing depends on the
order or the number of files: of the rows of one id, or of one pair, the one that counts is chosen
by what it says. Where the dataset extends an earlier one, ids that this has keep their index, and
new ones come after, in their order. The index of an id that is gone stays a hole for ever.

A pair whose explanation is held out must not be an edge that the graph is trained on, since the
graph vectors would know the answer. In the public release about 80 % of the test pairs are training
edges; here they are removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.data.aspects import aspect_tables, low_rated_aspects
from xrec.data.dataset import KEPT, Dataset
from xrec.data.rows import SPLITS
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.storage import FORGOTTEN

_INDEXED = """
    SELECT users.rowid::INT AS user_index, items.rowid::INT AS item_index,
        rows.* EXCLUDE (user_id, item_id)
    FROM raw.{table} AS rows {how} users USING (user_id) {how} items USING (item_id)"""
"""The rows of a raw table by index."""
_EXPLANATIONS = """
    CREATE TABLE explanations AS
    SELECT user_index, item_index, explanation, split FROM ranked WHERE reason IS NULL
    ORDER BY user_index, item_index"""
_INTERACTIONS = """
    CREATE TABLE interactions AS
    SELECT user_index, item_index, ranked.split
    FROM ranked LEFT JOIN explanations USING (user_index, item_index)
    WHERE reason IS NULL
        AND NOT (ranked.split = 'train' AND coalesce(explanations.split <> 'train', false))
    ORDER BY user_index, item_index"""
"""All usable pairs but training edges whose explanation is held out."""

CHANGES = "changes"
"""Among the metrics of a dataset that extends another one: counts of new, removed and changed."""
TABLES: Mapping[str, str] = {
    "users": "SELECT rowid::INT AS user_index, * FROM users",
    "items": "SELECT rowid::INT AS item_index, * FROM items",
    "interactions": "FROM interactions",
    "explanations": "FROM explanations",
}
"""The tables that every dataset has, after `assemble`: queries of the staging tables."""
_OF_IDS = {"users": ("profile",), "items": ("title", "profile")}  # and their texts


@dataclass(frozen=True)
class Assembled:
    """The tables by name, with the columns of xrec.schemas, and metrics for the manifest."""

    tables: Mapping[str, pa.Table | pa.RecordBatchReader]
    metrics: Mapping[str, Any]


def assemble(staging: Staging, earlier: Dataset | None = None) -> Assembled:
    """The dataset's tables from a source's rows; they may be empty, see `check_not_empty`.

    Pairs of unknown users or items, empty explanations, and all but one of the rows of an id or a
    pair are left out and become findings. `earlier` is what the dataset extends; raises DataError
    if no user of it, or no item, is in the source.
    """
    staging.limit_threads()
    orders, changes = {}, {}
    for table, texts in _OF_IDS.items():
        key, index, order = (f"{table[:-1]}_{end}" for end in ("id", "index", "order"))
        if earlier is not None:
            staging.database.register(f"earlier_{table}", getattr(earlier, table))
        _number(staging, table, key, texts, index if earlier else None)
        if earlier is not None:
            changes[table] = _changes(staging, table, key, index, texts)
            is_same = changes[table]["new"] == changes[table]["removed"] == 0
            if not is_same or getattr(earlier, order) is not None:
                orders[order] = staging.reader(
                    f"SELECT rowid::INT AS {index} FROM {table} WHERE {key} <> '' ORDER BY {key}"
                )
    _rank(staging, "explanations", "explanation")
    staging.sql(_EXPLANATIONS)
    _rank(staging, "interactions")
    staging.sql(_INTERACTIONS)
    num_usable = staging.count("ranked", "reason IS NULL")
    staging.sql("DROP TABLE ranked")
    metrics = {
        "num_without_table": {t: _count_ids(staging, t) for t in _OF_IDS if not staging.has(t)},
        "num_removed_edges": num_usable - staging.count("interactions"),
        **_count_without_edges(staging),
        **{
            f"num_{table}": {split: staging.count(table, f"split = '{split}'") for split in SPLITS}
            for table in ("interactions", "explanations")
        },
        **({} if earlier is None else {CHANGES: changes, KEPT: _kept(staging, earlier, changes)}),
    }
    tables = {
        **{name: staging.reader(query) for name, query in TABLES.items()},
        **orders,
        **_of_pairs(staging),
    }
    return Assembled(tables, metrics)


def _number(
    staging: Staging, table: str, key: str, texts: tuple[str, ...], index: str | None
) -> None:
    """Make the table of users or items: each id once, in their order, so that a row is an index.

    With `index`, the name of that column, the rows of the earlier table stand first, as holes where
    the source has no such id, and only the others are in the order of their ids.
    Of the rows of an id, the one with the longest texts counts, and of equally long ones the first
    in the order of their bytes. Without a table, the ids are those of the pairs.
    """
    if not staging.has(table):
        empty = ", ".join(f"'' AS {text}" for text in texts)
        staging.sql(f"""
            INSERT INTO raw.{table} BY NAME SELECT DISTINCT {key}, {empty} FROM (
                SELECT {key} FROM raw.interactions UNION ALL SELECT {key} FROM raw.explanations)""")
    columns = ", ".join(texts)
    staging.sql(f"""
        CREATE OR REPLACE TABLE ranked AS SELECT *, row_number() OVER (
            PARTITION BY {key} ORDER BY strlen(concat({columns})) DESC, {columns}, file, line
        ) AS place FROM raw.{table}""")
    staging.reject(
        table,
        f"SELECT file, line, 'duplicate of another {key}' AS reason FROM ranked WHERE place > 1",
    )
    rows, place = "ranked WHERE place = 1", key
    if index is not None:
        known = ", ".join(f"coalesce(ranked.{name}, '') AS {name}" for name in (key, *texts))
        rows, place = (
            f"""(
            SELECT {index} AS place, {known} FROM earlier_{table}
            LEFT JOIN ranked ON ranked.{key} = earlier_{table}.{key} AND ranked.place = 1
            UNION ALL BY NAME
            SELECT (SELECT count(*) FROM earlier_{table}) + row_number() OVER (ORDER BY {key}) - 1
                AS place, {key}, {columns}
            FROM ranked ANTI JOIN earlier_{table} USING ({key}) WHERE place = 1)""",
            "place",
        )
    staging.sql(f"CREATE TABLE {table} AS SELECT {key}, {columns} FROM {rows} ORDER BY {place}")
    staging.sql(f"DROP TABLE raw.{table}")


def _changes(
    staging: Staging, table: str, key: str, index: str, texts: tuple[str, ...]
) -> dict[str, int]:
    """How many users or items are new, removed, and of other texts than in the earlier dataset."""
    differs = " OR ".join(f"now.{text} <> before.{text}" for text in texts)
    is_removed = f"now.{key} = '' AND before.{key} <> ''"
    ((num_kept, *counts),) = staging.sql(f"""
        SELECT count(*) FILTER (now.{key} = before.{key} AND now.{key} <> ''),
            count(*) FILTER (before.{key} IS NULL), count(*) FILTER ({is_removed}),
            count(*) FILTER (now.{key} = before.{key} AND ({differs}))
        FROM {table} AS now LEFT JOIN earlier_{table} AS before ON now.rowid = before.{index}""")
    if not num_kept:
        raise DataError(
            f"prepare.extends: none of the {counts[1]:,} {table} of the earlier dataset is in the "
            f"source, which has {counts[0]:,} others; expected a later state of the same "
            "catalogue: give its dataset, or leave prepare.extends out",
            code="nothing_in_common",
            key="prepare.extends",
        )
    return dict(zip(("new", "removed", "changed"), map(int, counts), strict=True))


def _kept(staging: Staging, earlier: Dataset, changes: Mapping[str, Any]) -> dict[str, float]:
    """The shares of the earlier users and items that are there, and of its number of pairs.

    Forgotten people are not missed; users or items whose table is gone are. Few say nothing.
    """
    there, known = earlier.manifest.row_counts, earlier.manifest.metrics["num_without_table"]
    before = {table: there[table] for table in ("interactions", "explanations")}
    here = {table: staging.count(table) for table in before}
    for table, changed in changes.items():
        here[table] = _count_ids(staging, table) - changed["new"]
        before[table] = here[table] + changed["removed"]
        if not staging.has(table) and table not in known:
            here[table] = 0
    gone = {table: staging.num_forgotten[f"{table}: {FORGOTTEN}"] for table in here}
    return {t: min(1.0, (here[t] + gone[t]) / n) for t, n in before.items() if n >= 50}


def _rank(staging: Staging, table: str, text: str | None = None) -> None:
    """Make the table `ranked` of pairs by index, each with the reason for which it is left out.

    Of the rows of a pair, one that is held out counts before one for training, and one for the test
    before one for validation; then the one with the longest text, then the first in the order of
    its bytes.
    """
    is_empty = f"WHEN {text} = '' THEN 'empty {text}'" if text else ""
    by_text = f"{text} = '', strlen({text}) DESC, {text}, " if text else ""
    staging.sql(f"""
        CREATE OR REPLACE TABLE ranked AS SELECT *, CASE {is_empty}
            WHEN user_index IS NULL THEN 'unknown user_id'
            WHEN item_index IS NULL THEN 'unknown item_id'
            WHEN row_number() OVER (
                PARTITION BY user_index, item_index{f", {text} = ''" if text else ""}
                ORDER BY split = 'train', split = 'validation', {by_text}file, line
            ) > 1 THEN 'duplicate of another pair' END AS reason
        FROM ({_INDEXED.format(table=table, how="LEFT JOIN")})""")
    staging.reject(table, "SELECT file, line, reason FROM ranked WHERE reason IS NOT NULL")
    staging.sql(f"DROP TABLE raw.{table}")


def _of_pairs(staging: Staging) -> dict[str, pa.Table | pa.RecordBatchReader]:
    """The tables of pairs that not every source has."""
    queries = {
        name: _INDEXED.format(table=name, how="JOIN") + " ORDER BY user_index, item_index"
        for name in ("dislikes", "training_profiles", "planted", "aspects")
        if staging.has(name)
    }
    named = queries.pop("aspects", None)
    tables = {name: staging.reader(query) for name, query in queries.items()}
    if named is None:
        return tables
    tables |= aspect_tables(staging.table(f"{named}, line"))
    if staging.has("low_rated_aspects"):
        rows = staging.table("""
            SELECT items.rowid::INT AS item_index, aspect, sentiment
            FROM raw.low_rated_aspects JOIN items USING (item_id)""")
        tables["low_rated_aspects"] = low_rated_aspects(rows, tables["aspects"])
    return tables


def check_not_empty(staging: Staging) -> None:
    """Raise DataError if there are no users, no items, or no interactions to train on."""
    for name in ("users", "items"):
        if not _count_ids(staging, name):
            raise DataError(
                f"no usable {name}: the dataset would be empty; check the files",
                code="empty_table",
                key=name,
            )
    if not staging.count("interactions", "split = 'train'"):
        raise DataError(
            "no interaction is left for training: check the source's interactions, and "
            "splits.validation and splits.test",
            code="no_training_pair",
            key="interactions",
        )


def _count_ids(staging: Staging, table: str) -> int:
    """The number of users or items that are no holes."""
    return staging.count(table, f"{table[:-1]}_id <> ''")


def _count_without_edges(staging: Staging) -> dict[str, int]:
    return {
        f"num_{what}s_without_train_edge": staging.count(
            f"{what}s ANTI JOIN (FROM interactions WHERE split = 'train') AS trained "
            f"ON {what}s.rowid = trained.{what}_index",
            f"{what}_id <> ''",
        )
        for what in ("user", "item")
    }
