"""The sources of pairs; tables that cannot be read are refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import PoolHere, TaskOf, plan_of
from tests.xrec.backfill.runs import pairs_of, pairs_table
from tests.xrec.bulk.test_plan import BROKEN_TEXT
from xrec import bulk
from xrec.backfill.plan import pair_batches, pairs_listing
from xrec.errors import ArtifactNotFoundError, ConfigError, DataError, StorageError
from xrec.recommend import ROWS


def pairs_in(config: Any) -> list[str]:
    return sorted(pair for good, _ in pair_batches(config) for pair in pairs_of(good.to_pylist()))


def table_at(uri: object) -> dict[str, Any]:
    return {"pairs": {"kind": "table", "uri": str(uri)}}


def test_table_ids_without_an_exact_text_are_rejected_with_file_and_line(runs, monkeypatch, caplog):
    """Each file is read with its own types: an id of one file may be a float in another.

    Further columns are left, whatever is in them.
    """
    monkeypatch.setattr("xrec.backfill.plan._BATCH_ROWS", 2)  # lines count on over the batches
    folder = runs.folder / "in"
    folder.mkdir()
    files = {
        "a": {"nan": [None] * 4, "item_id": [1, 2, 3, 4], "user_id": ["u0", "u1", None, "u3"]},
        "b": {"user_id": ["u0", "u1"], "item_id": [12345678901234567.0, float("nan")]},
        "c": {"user_id": BROKEN_TEXT, "item_id": ["i0", "i1", "i2"]},
    }
    for name, columns in files.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    config = runs.config(**table_at(folder))
    batches = list(pair_batches(config))
    assert {(*good.column_names,) for good, _ in batches} == {("user_id", "item_id")}
    rejected = pa.concat_tables(bad for _, bad in batches).to_pylist()
    assert [(Path(row["file"]).name, row["line"], row["reason"]) for row in rejected] == [
        ("a.parquet", 3, "null_id"),
        ("b.parquet", 1, "float_id"),
        ("b.parquet", 2, "nan_id"),
        ("c.parquet", 2, "invalid_utf8"),
    ]
    assert "4 of 9 rows of pairs have ids that are neither strings nor integers" in caplog.text
    assert pairs_in(config) == ["also good i2", "good i0", "u0 1", "u1 2", "u3 4"]
    assert runs.plan(**table_at(folder)).record.num_rejected == 4
    with raises(DataError, "too_many_rejected", "max_failed_share", 4):
        pairs_in(runs.config(**table_at(folder), max_failed_share=0.4))


def test_listing_is_of_the_pairs_files_alone(runs):
    file = runs.folder / "in" / "pairs.parquet"
    file.parent.mkdir()
    pq.write_table(pairs_table("u0 i0"), file)
    assert list(pairs_listing(runs.config(**table_at(file.parent)))) == [str(file)]
    assert pairs_listing(runs.config()) == {}  # what a split depends on is in the run's identity


@pytest.mark.parametrize(
    ("columns", "error", "code", "key", "saw"),
    [
        (
            {"user": ["u0"], "item_id": ["i0"]},
            DataError,
            "missing_column",
            "user_id",
            ("user", "item_id"),
        ),
        ("user_id,item_id\n", DataError, "broken_file", "pairs.uri", None),
        (None, StorageError, None, None, None),
    ],
)
def test_table_without_pairs_or_not_there_is_refused(runs, columns, error, code, key, saw):
    file = runs.folder / "pairs.parquet"
    if isinstance(columns, str):
        file.write_text(columns)
    elif columns is not None:
        pq.write_table(pa.table(columns), file)
    with pytest.raises(error) as raised:
        pairs_in(runs.config(**table_at(file)))
    assert "pairs.parquet" in str(raised.value)
    assert code is None or (raised.value.code, raised.value.key) == (code, key)
    assert saw in (None, raised.value.saw)


def test_split_pairs_are_the_explained_pairs_of_that_split(runs):
    assert pairs_in(runs.config()) == ["u0 i4"]


def _ranked(rows: pa.Table) -> bulk.Outcome:
    """Give user uN the items of rank 1 and 2, iN+1 and iN+2."""
    ranked = [
        {"user_id": user, "item_id": f"i{int(user[1:]) + rank}", "rank": rank, "score": 0.5}
        for user in rows["user_id"].to_pylist()
        for rank in (2, 1)
    ]
    ok = pa.Table.from_pylist(ranked, ROWS.ok_schema)
    return bulk.Outcome(ok, ROWS.failed_schema.empty_table())


def test_recommended_pairs_are_the_first_k_of_each_user(runs):
    source = {"kind": "recommendations", "uri": str(runs.folder / "top")}
    with pytest.raises(ArtifactNotFoundError):
        pairs_in(runs.config(pairs=source))
    users = pa.table({"user_id": ["u0", "u1", "u2"]})
    run = plan_of(source["uri"], "recommendations", ROWS, users, config={"k": 2})
    task = TaskOf(_ranked)
    bulk.complete(run, PoolHere(), lambda: task, "recommendations", lambda summary: ({}, {}))
    both = ["u0 i1", "u0 i2", "u1 i2", "u1 i3", "u2 i3", "u2 i4"]
    assert pairs_in(runs.config(pairs=source)) == both
    assert pairs_in(runs.config(pairs={**source, "k": 1})) == both[::2]
    with raises(ConfigError, "too_large", "k", 3):
        pairs_in(runs.config(pairs={**source, "k": 3}))
