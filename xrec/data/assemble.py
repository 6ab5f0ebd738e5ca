"""Turns the rows of a source into the tables of the dataset.

IDs become indices, in the order of the IDs, and each pair gets a split. The result does not depend
on the order or number of files: if several rows have the same ID or pair, their content decides
which one is kept. If the dataset extends an earlier one, the earlier IDs keep their index, and new
IDs follow in order. The index of an ID that is gone becomes a hole. It is kept for this ID while
the next `NUM_KEPT` datasets are made, unless the person was forgotten; then new IDs fill it.

A pair whose explanation is held out must not be a training edge of the graph, because the graph
vectors would then contain the answer. In the public release about 80% of the test pairs are
training edges; here they are removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.data.aspects import aspect_tables
from xrec.data.dataset import KEPT, Dataset
from xrec.data.rows import SPLITS
from xrec.data.staging import Staging
from xrec.errors import DataError
from xrec.schemas import ITEM_HOLES, USER_HOLES
from xrec.storage import FORGOTTEN

_INDEXED = """
    SELECT users.rowid::INT AS user_index, items.rowid::INT AS item_index,
        rows.* EXCLUDE (user_id, item_id)
    FROM raw.{table} AS rows {how} users USING (user_id) {how} items USING (item_id)"""
"""The rows of a raw table, with indices in place of IDs."""
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
"""All usable pairs except training edges whose explanation is held out."""
_OF_PAIRS = f"""
    SELECT rows.*, coalesce(
        interactions.split,
        nullif(explanations.split, 'train'),
        CASE WHEN (user_index, item_index) IN (
            SELECT (user_index, item_index) FROM ({_INDEXED.format(table="dislikes", how="JOIN")})
        ) THEN 'low_rated' END) AS of_pair
    FROM ({_INDEXED.format(table="aspects", how="LEFT JOIN")}) AS rows
    LEFT JOIN interactions USING (user_index, item_index)
    LEFT JOIN explanations USING (user_index, item_index)"""
"""What users said about items, with the split of the pair; `low_rated` if the user disliked it."""
_WHY_NO_ASPECT = """
    CASE WHEN user_index IS NULL THEN 'unknown user_id'
        WHEN item_index IS NULL THEN 'unknown item_id'
        WHEN of_pair IS NULL THEN 'neither an interaction nor a dislike' END"""
_ASPECTS = """
    SELECT user_index, item_index, aspect, coalesce(opinion, '') AS opinion,
        coalesce(sentiment, 'positive') AS sentiment,
        CASE WHEN of_pair = 'train' THEN coalesce(split, 'train') ELSE of_pair END AS split
    FROM ranked WHERE reason IS NULL
    QUALIFY row_number() OVER (
        PARTITION BY user_index, item_index, aspect ORDER BY ranked.sentiment = 'negative',
            ranked.sentiment = 'neutral', ranked.opinion = '', strlen(ranked.opinion),
            ranked.opinion) = 1
    ORDER BY user_index, item_index, file, line"""
"""Each aspect of a pair once, praise first. A row may hold out an aspect of a training pair."""

CHANGES = "changes"
"""Metric of a dataset that extends another one: counts of new, removed, and changed IDs."""
TABLES: Mapping[str, str] = {
    "users": "SELECT rowid::INT AS user_index, * FROM users",
    "items": "SELECT rowid::INT AS item_index, * FROM items",
    "interactions": "FROM interactions",
    "explanations": "FROM explanations",
}
"""The tables that every dataset has, as queries of the staging tables after `assemble`."""
NUM_KEPT = 30
"""For how many later datasets a hole is kept for the ID that is gone."""
HOLES = {"users": USER_HOLES, "items": ITEM_HOLES}
_OF_IDS = {"users": ("profile",), "items": ("title", "profile")}  # the columns of text


@dataclass(frozen=True)
class Assembled:
    """The tables by name, in the schemas of xrec.schemas, and the metrics for the manifest."""

    tables: Mapping[str, pa.Table | pa.RecordBatchReader]
    metrics: Mapping[str, Any]


def assemble(staging: Staging, earlier: Dataset | None = None) -> Assembled:
    """Return the dataset's tables from a source's rows; they may be empty, see `check_not_empty`.

    Pairs with unknown users or items, empty explanations, and all but one of the rows with the same
    ID or pair are left out and become findings. `earlier` is the dataset to extend. Raises
    DataError if the source contains none of its users, or none of its items.
    """
    orders, changes = dict[str, pa.RecordBatchReader](), dict[str, dict[str, int]]()
    holes = dict[str, pa.Table]()
    for table, texts in _OF_IDS.items():
        key, index, order = (f"{table[:-1]}_{end}" for end in ("id", "index", "order"))
        _rank_ids(staging, table, key, texts)
        if earlier is None:
            kept = f"SELECT {key}, {', '.join(texts)} FROM ranked WHERE reason IS NULL"
            staging.sql(f"CREATE TABLE {table} AS {kept} ORDER BY {key}")
            continue
        staging.database.register("earlier", getattr(earlier, table))
        kept = getattr(earlier, f"{table[:-1]}_holes")
        kept = HOLES[table].empty_table() if kept is None else kept
        staging.database.register("kept", staging.forgotten.without(kept))
        _number_after(staging, table, key, index, texts)
        holes |= _holes(staging, table, key, index)
        changes[table] = _changes(staging, table, key, texts)
        is_same = changes[table]["new"] == changes[table]["removed"] == 0
        if not is_same or getattr(earlier, order) is not None:
            orders[order] = staging.reader(
                f"SELECT rowid::INT AS {index} FROM {table} WHERE {key} <> '' ORDER BY {key}"
            )
    _rank_pairs(staging, "explanations", "explanation")
    staging.sql(_EXPLANATIONS)
    _rank_pairs(staging, "interactions")
    staging.sql(_INTERACTIONS)
    num_usable = staging.count("ranked", "reason IS NULL")
    staging.sql("DROP TABLE ranked")
    metrics = {
        "num_without_table": {t: _count_ids(staging, t) for t in _OF_IDS if not staging.has(t)},
        "num_removed_edges": num_usable - staging.count("interactions"),
        **{
            f"num_{table}": {split: staging.count(table, f"split = '{split}'") for split in SPLITS}
            for table in ("interactions", "explanations")
        },
        **({} if earlier is None else {CHANGES: changes, KEPT: _kept(staging, earlier, changes)}),
    }
    tables = {name: staging.reader(query) for name, query in TABLES.items()}
    return Assembled({**tables, **orders, **holes, **_of_pairs(staging)}, metrics)


def _rank(staging: Staging, table: str, rows: str, reason: str) -> None:
    """Create the table `ranked`: a raw table's rows, each with a reason to leave it out, or null.

    rows: the query for the rows. reason: an SQL expression. Rows with a reason become findings.
    """
    staging.sql(f"CREATE OR REPLACE TABLE ranked AS SELECT *, {reason} AS reason FROM ({rows})")
    staging.reject(table, "SELECT file, line, reason FROM ranked WHERE reason IS NOT NULL")
    staging.sql(f"DROP TABLE raw.{table}")


def _rank_ids(staging: Staging, table: str, key: str, texts: tuple[str, ...]) -> None:
    """Create the table `ranked` of users or items.

    If several rows have the same ID, the one with the longest texts is kept; ties go to the first
    in byte order. If the source has no such table, the IDs come from the pairs.
    """
    if not staging.has(table):
        empty = ", ".join(f"'' AS {text}" for text in texts)
        staging.sql(f"""
            INSERT INTO raw.{table} BY NAME SELECT DISTINCT {key}, {empty} FROM (
                SELECT {key} FROM raw.interactions UNION ALL SELECT {key} FROM raw.explanations)""")
    columns = ", ".join(texts)
    reason = f"""
        CASE WHEN row_number() OVER (
            PARTITION BY {key} ORDER BY strlen(concat({columns})) DESC, {columns}, file, line
        ) > 1 THEN 'duplicate of another {key}' END"""
    _rank(staging, table, f"FROM raw.{table}", reason)


def _rank_pairs(staging: Staging, table: str, text: str | None = None) -> None:
    """Create the table `ranked` of pairs, by index.

    If several rows have the same pair, test rows are preferred over validation rows, and those over
    training rows. After that the row with the longest text is kept; ties go to the first in byte
    order.
    """
    is_empty = f"WHEN {text} = '' THEN 'empty {text}'" if text else ""
    by_text = f"{text} = '', strlen({text}) DESC, {text}, " if text else ""
    reason = f"""
        CASE {is_empty}
            WHEN user_index IS NULL THEN 'unknown user_id'
            WHEN item_index IS NULL THEN 'unknown item_id'
            WHEN row_number() OVER (
                PARTITION BY user_index, item_index{f", {text} = ''" if text else ""}
                ORDER BY split = 'train', split = 'validation', {by_text}file, line
            ) > 1 THEN 'duplicate of another pair' END"""
    _rank(staging, table, _INDEXED.format(table=table, how="LEFT JOIN"), reason)


def _number_after(
    staging: Staging, table: str, key: str, index: str, texts: tuple[str, ...]
) -> None:
    """Create the table of users or items, numbered by row, from `ranked`, `earlier` and `kept`.

    IDs of the earlier table keep their index, and so do those that come back while it is kept. New
    IDs take the holes that the earlier table had and that are not kept, and then follow, both in
    the order of the IDs.
    """
    new, now = ", ".join((key, *texts)), ", ".join(f"ranked.{name}" for name in (key, *texts))
    whole = ", ".join(f"coalesce({name}, '') AS {name}" for name in (key, *texts))
    staging.sql(f"""
        CREATE TABLE {table} AS
        WITH known AS (
            SELECT {key}, {index} AS place FROM earlier WHERE {key} <> ''
            UNION ALL SELECT {key}, {index} FROM kept
        ), free AS (
            SELECT {index} AS place, row_number() OVER (ORDER BY {index}) AS number
            FROM earlier WHERE {key} = '' AND {index} NOT IN (SELECT {index} FROM kept)
        ), fresh AS (
            SELECT {new}, row_number() OVER (ORDER BY {key}) AS number
            FROM ranked ANTI JOIN known USING ({key}) WHERE reason IS NULL
        ), placed AS (
            SELECT place, {now} FROM known JOIN ranked USING ({key}) WHERE reason IS NULL
            UNION ALL SELECT
                coalesce(place, (SELECT count(*) FROM earlier) + number
                    - (SELECT count(*) FROM free) - 1), {new}
            FROM fresh LEFT JOIN free USING (number)
        )
        SELECT {whole} FROM (
            SELECT {index} AS place FROM earlier UNION SELECT place FROM placed
        ) LEFT JOIN placed USING (place) ORDER BY place""")


def _holes(staging: Staging, table: str, key: str, index: str) -> dict[str, pa.Table]:
    """Return the table of the IDs for which a hole is kept, unless it is empty."""
    rows = staging.table(f"""
        SELECT {key}, {index}::INT AS {index}, num_datasets::INT AS num_datasets FROM (
            SELECT {key}, {index}, 1 AS num_datasets FROM earlier WHERE {key} <> ''
            UNION ALL SELECT {key}, {index}, num_datasets + 1 FROM kept
            WHERE num_datasets < {NUM_KEPT}
        ) AS known SEMI JOIN (SELECT rowid AS place FROM {table} WHERE {key} = '') AS hole
            ON known.{index} = hole.place
        ORDER BY {index}""")
    rows = staging.forgotten.without(rows)
    return {f"{table[:-1]}_holes": rows.cast(HOLES[table])} if rows.num_rows else {}


def _changes(staging: Staging, table: str, key: str, texts: tuple[str, ...]) -> dict[str, int]:
    """Return how many users or items are new, are removed, or have other texts than before."""
    differs = " OR ".join(f"now.{text} <> before.{text}" for text in texts)
    is_removed = f"now.{key} = '' AND before.{key} <> ''"
    is_new = f"now.{key} <> '' AND coalesce(before.{key}, '') = ''"
    ((num_kept, *counts),) = staging.sql(f"""
        SELECT count(*) FILTER (now.{key} = before.{key} AND now.{key} <> ''),
            count(*) FILTER ({is_new}), count(*) FILTER ({is_removed}),
            count(*) FILTER (now.{key} = before.{key} AND ({differs}))
        FROM {table} AS now LEFT JOIN earlier AS before ON now.rowid = before.{table[:-1]}_index""")
    if not num_kept:
        raise DataError(
            f"prepare.extends: none of the {counts[1]:,} {table} of the earlier dataset is in the "
            f"source, which has {counts[0]:,} others; expected a later version of the same "
            "catalog; extend a dataset of this catalog, or remove prepare.extends",
            code="nothing_in_common",
            key="prepare.extends",
        )
    return dict(zip(("new", "removed", "changed"), map(int, counts), strict=True))


def _kept(staging: Staging, earlier: Dataset, changes: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each table of the earlier dataset that is left (for pairs, by count).

    Forgotten users do not count as lost. The share is 0 if the table of users or items is gone.
    Tables with fewer than 50 rows are skipped.
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


def _of_pairs(staging: Staging) -> dict[str, pa.Table | pa.RecordBatchReader]:
    """Return the optional tables, if the source has them."""
    by_pair = f"{_INDEXED} ORDER BY user_index, item_index"
    tables: dict[str, pa.Table | pa.RecordBatchReader] = {
        name: staging.reader(by_pair.format(table=name, how="JOIN"))
        for name in ("dislikes", "training_profiles", "planted")
        if staging.has(name)
    }
    if staging.has("aspects"):
        _rank(staging, "aspects", _OF_PAIRS, _WHY_NO_ASPECT)
        tables |= aspect_tables(staging.table(_ASPECTS))
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
            "no interactions are left for training; check the source's interactions, "
            "splits.validation, and splits.test",
            code="no_training_pair",
            key="interactions",
        )


def _count_ids(staging: Staging, table: str) -> int:
    """Return the number of users or items, without holes."""
    return staging.count(table, f"{table[:-1]}_id <> ''")
