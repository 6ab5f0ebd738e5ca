"""The pairs of a backfill, and lookups and readers of a published version."""

from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.here import Place
from tests.world.workspace import save_recommendations
from tests.xrec.backfill.runs import output_of, pairs_of, pairs_table, published_rows
from tests.xrec.bulk.test_plan import BROKEN_TEXT
from tests.xrec.bulk.toy_run import toy_run
from xrec.backfill import read, read_explanations, read_failed
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.backfill.plan import pair_batches, pairs_listing
from xrec.bulk import read_published
from xrec.config import StorageConfig
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    StorageError,
    TableError,
)
from xrec.schemas import FAILED, GENERATED, GIVEN, PAIRS, REJECTED
from xrec.storage import read_table

PLANNED = (*PAIRS.names, *GIVEN.names)


def pairs_in(config: Any) -> list[str]:
    return sorted(pair for good, _ in pair_batches(config) for pair in pairs_of(good.to_pylist()))


def table_at(uri: object) -> dict[str, Any]:
    return {"pairs": {"kind": "table", "uri": str(uri)}}


def test_invalid_ids_of_a_table_are_rejected_with_file_and_line(runs):
    """Each file is read with its own types, and other columns are ignored."""
    folder = runs.folder / "in"
    folder.mkdir()
    files = {
        "a": {"nan": [None] * 4, "item_id": [1, 2, 3, 4], "user_id": ["u0", "u1", None, "u3"]},
        "b": {"user_id": ["u0", "u1"], "item_id": [12345678901234567.0, float("nan")]},
        "c": {"user_id": BROKEN_TEXT, "item_id": ["i0", "i1", "i2"]},
    }
    for name, columns in files.items():
        # Line numbers continue across row groups, which are read one by one.
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=2)
    config = runs.config(**table_at(folder))
    batches = list(pair_batches(config))
    assert {(*good.column_names,) for good, _ in batches} == {PLANNED}
    rejected = pa.concat_tables(bad for _, bad in batches).to_pylist()
    assert [(Path(row["file"]).name, row["line"], row["reason"]) for row in rejected] == [
        ("a.parquet", 3, "null_id"),
        ("b.parquet", 1, "float_id"),
        ("b.parquet", 2, "nan_id"),
        ("c.parquet", 2, "invalid_utf8"),
    ]
    assert pairs_in(config) == ["also good i2", "good i0", "u0 1", "u1 2", "u3 4"]
    run = runs.plan(**table_at(folder))
    assert read_table(run.folder / "plan" / "rejected.parquet", REJECTED).to_pylist() == rejected
    assert run.record.rejected == {"null_id": 1, "float_id": 1, "nan_id": 1, "invalid_utf8": 1}
    with raises(DataError, "too_many_rejected", "max_failed_share", 4):
        pairs_in(runs.config(**table_at(folder), max_failed_share=0.4))


def test_missing_or_broken_table_of_pairs_is_refused_and_a_good_one_is_listed(runs):
    file = runs.folder / "in" / "pairs.parquet"
    file.parent.mkdir()
    config = runs.config(**table_at(file))
    with pytest.raises(StorageError):
        pairs_in(config)
    file.write_text("user_id,item_id\n")
    with raises(DataError, "broken_file", "pairs.uri"):
        pairs_in(config)
    pq.write_table(pa.table({"user": ["u0"], "item_id": ["i0"]}), file)
    with raises(DataError, "missing_column", "user_id", ("user", "item_id")):
        pairs_in(config)
    pq.write_table(pairs_table("u0 i0"), file)
    assert list(pairs_listing(runs.config(**table_at(file.parent)))) == [str(file)]
    assert pairs_listing(split := runs.config()) == {}
    assert pairs_in(split) == ["u0 i4"]  # the explained pairs of the test split


TOP = [(f"u{n}", f"i{n + rank}", rank, 1.0 / rank) for n in range(3) for rank in (1, 2)]


def _published(runs: Any) -> list[tuple[Any, ...]]:
    """Return the rows as any reader of Delta tables sees them, by user and rank."""
    table = deltalake.DeltaTable(runs.output.uri).to_pyarrow_table()
    rows = table.sort_by([("user_id", "ascending"), ("rank", "ascending")])
    return [(*row.values(),) for row in rows.select([*RECOMMENDED, "reason"]).to_pylist()]


RECOMMENDED = ["user_id", "item_id", "rank", "score", "explanation"]


def test_each_recommended_pair_is_published_with_its_rank_even_without_a_text(runs):
    top = {"recommendations": str(runs.folder / "top"), "pairs": {"kind": "recommendations"}}
    with pytest.raises(ArtifactNotFoundError):
        pairs_in(runs.config(**top))
    save_recommendations(runs.folder / "top", 2, *TOP)
    runs.run(toy=runs.toy(mute=("u1 i2",)), **top)
    rows = _published(runs)
    assert [row[:3] for row in rows] == [row[:3] for row in TOP]
    assert [row[3] for row in rows] == pytest.approx([row[3] for row in TOP])
    assert [row[4:] for row in rows if row[:2] == ("u1", "i2")] == [(None, "empty_text")]
    assert all(row[4] == f"explained {row[0]} {row[1]}" for row in rows if row[5] is None)
    runs.calls()
    better = [(user, item, 3 - rank, 2 * score) for user, item, rank, score in TOP]
    save_recommendations(runs.folder / "top", 2, *better)
    runs.heal()
    runs.run(toy=runs.toy(mute=("u1 i2",)), **top)
    assert runs.calls() == ["u1 i2"]  # texts do not depend on ranks
    assert {row[:3] for row in _published(runs)} == {row[:3] for row in better}
    assert lookup_of(runs.config(**top)).of_user("u0")["item_id"].to_pylist() == ["i2", "i1"]


pytestmark = pytest.mark.usefixtures("actors_here")

PAIRS = (*(f"u{user} i{item}" for user in range(4) for item in range(0, 5, 2)), "u3 i1", "u3 i3")


def lookup_of(config: Any, max_bytes: int = 2**20, **inputs: str) -> ExplanationLookup:
    output = output_of(config)
    there = read_published(output, "explanations").inputs
    expected = {name: there[name] for name in ("base_model", "adapter", "graph")}
    return open_lookup(output.uri, {**expected, **inputs}, max_bytes, config.storage)


def check(config: Any, lookup: ExplanationLookup) -> None:
    """Look up all pairs of known and unknown users and items, the second time in memory."""
    rows = published_rows(output_of(config))
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}
    assert lookup.num_rows == len(texts)
    for user in [*(f"u{number}" for number in range(4)), "nobody", "", "é\u200f\ud7ff"]:
        explained = lookup.of_user(user).filter(pc.field("status") == "ok")["item_id"].to_pylist()
        assert explained == [row["item_id"] for row in rows if row["user_id"] == user]
        for item in [*(f"i{number}" for number in range(5)), "nothing"]:
            found = lookup.find(user, item)
            assert (found.text if found else None) == texts.get((user, item))
            assert lookup.in_memory(user, item) == (True, found)


def test_lookup_finds_every_explanation_after_a_run_and_after_a_retry(runs):
    config, toy = runs.config(), runs.toy(mute=("u1 i2", "u3 i1"))
    runs.run(*PAIRS, toy=toy)
    first = lookup_of(config)
    assert first.read_ahead() == 1  # one file
    row = published_rows(output_of(config))[0]
    assert first.in_memory(row["user_id"], row["item_id"]) == (False, None)
    found = first.find(row["user_id"], row["item_id"])
    assert found.num_generated_tokens == row["num_generated_tokens"]
    assert found.model_fingerprint == row["model_fingerprint"]
    check(config, first)
    assert first.find("u1", "i2") is None

    runs.heal()
    runs.run(*PAIRS, toy=toy, retry_failed="all")
    second = lookup_of(config)
    assert second.in_memory("u1", "i2") == (False, None)
    check(config, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # of the earlier version


def test_lookup_refuses_missing_tables_other_models_and_damaged_files(runs):
    with pytest.raises(ArtifactNotFoundError):
        open_lookup(runs.output.uri, {}, 2**20)
    runs.run("u0 i0")
    with pytest.raises(ArtifactMismatchError) as error:
        lookup_of(runs.config(), adapter="other")
    assert "adapter:" in str(error.value)
    assert "graph:" not in str(error.value)
    (name,) = (each for each in runs.output.sizes() if each.startswith("part-"))
    (runs.output / name).write_bytes(b"no parquet")
    with pytest.raises(DataError):
        lookup_of(runs.config()).find("u0", "i0")
    (runs.output / name).delete()
    with pytest.raises(StorageError):
        lookup_of(runs.config()).find("u0", "i0")


def test_read_gives_the_rows_of_a_version(runs):
    uri, toy, pairs = runs.output.uri, runs.toy(mute=("u1 i0",)), ("u0 i0", "u1 i0", "nobody i0")
    with pytest.raises(ArtifactNotFoundError):
        read(uri)
    for retry in (None, "all"):
        runs.run(*pairs, toy=toy, retry_failed=retry)
        runs.heal()
    for version, num_failed in ((0, 2), (1, 1), (None, 1)):
        for reader, schema, failed in ((read, GENERATED, False), (read_failed, FAILED, True)):
            rows = reader(uri, version).to_table(columns=schema.names).to_pylist()
            expected = published_rows(runs.output, failed, version)
            assert len(rows) == (num_failed if failed else 3 - num_failed)
            assert sorted(rows, key=lambda row: row["user_id"]) == [
                {name: row.get(name) for name in schema.names} for row in expected
            ]
    assert read_explanations(uri).schema == GENERATED
    assert sorted(pairs_of(read_explanations(uri).to_pylist())) == ["u0 i0", "u1 i0"]
    with pytest.raises(TableError):
        read(uri, 7)


def test_reading_a_table_of_another_kind_is_refused(tmp_path):
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.complete()
    for reader in (read, read_failed, read_explanations):
        with pytest.raises(ArtifactMismatchError):
            reader(toy.run.output.uri)
