"""A lookup and readers get exactly the rows of one published version."""

from typing import Any

import pytest

from tests.world.here import Place
from tests.xrec.backfill.runs import output_of, pairs_of, published_rows
from tests.xrec.bulk.toy_run import toy_run
from xrec.backfill import read, read_explanations, read_failed
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.config.shared import StorageConfig
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    StorageError,
    TableError,
)
from xrec.schemas import FAILED, GENERATED
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

PAIRS = (*(f"u{user} i{item}" for user in range(12) for item in range(0, 5, 2)), "u3 i1", "u3 i3")


def lookup_of(config: Any, max_bytes: int = 2**20, **inputs: str) -> ExplanationLookup:
    output = output_of(config)
    there = read_manifest(output, "explanations").inputs
    expected = {name: there[name] for name in ("base_model", "adapter", "graph")}
    return open_lookup(output.uri, {**expected, **inputs}, max_bytes, config.storage)


def check(config: Any, lookup: ExplanationLookup) -> None:
    """Look up every pair of known and unknown users and items, the second time from memory."""
    rows = [
        {name: row[name] for name in GENERATED.names} for row in published_rows(output_of(config))
    ]
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}
    assert lookup.num_rows == len(texts)
    for user in [*(f"u{number}" for number in range(12)), "nobody", "", "é\u200f\ud7ff"]:
        assert lookup.of_user(user).to_pylist() == [row for row in rows if row["user_id"] == user]
        assert lookup.of_user(user).schema == GENERATED
        for item in [*(f"i{number}" for number in range(5)), "nothing"]:
            found = lookup.find(user, item)
            assert (found.text if found else None) == texts.get((user, item))
            assert lookup.in_memory(user, item) == (True, found)


def test_lookup_finds_every_explanation_after_a_run_and_after_a_retry(runs, s3):
    values = {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}
    config, toy = runs.config(**values), runs.toy(mute=("u1 i2", "u3 i1"))
    runs.run(*PAIRS, toy=toy, **values)
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
    runs.run(*PAIRS, toy=toy, **values, retry_failed="all")
    second = lookup_of(config)
    assert second.in_memory("u1", "i2") == (False, None)
    check(config, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # the lookup of an earlier version does not change


def test_lookup_keeps_no_more_than_it_may(runs):
    runs.run(*PAIRS)
    lookup = lookup_of(runs.config(), max_bytes=4_000)
    check(runs.config(), lookup)
    assert 0 < lookup._users.num_bytes <= 4_000
    assert lookup.in_memory("u0", "i0") == (False, None)


def test_lookup_of_nothing_of_another_model_or_in_a_broken_or_lost_file_says_so(runs):
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


TWELVE = tuple(f"u{user} i{item}" for user in range(6) for item in range(2))


@pytest.mark.usefixtures("actors_here")
def test_read_gives_the_rows_of_a_version(runs):
    uri, toy = runs.output.uri, runs.toy(mute=("u1 i0", "u4 i1"))
    with pytest.raises(ArtifactNotFoundError):
        read(uri)
    for retry in (None, "all"):
        runs.run(*TWELVE, "nobody i0", toy=toy, retry_failed=retry)
        runs.heal()
    for version, num_failed in ((0, 3), (1, 1), (None, 1)):
        found = []
        for reader, schema, failed in ((read, GENERATED, False), (read_failed, FAILED, True)):
            dataset = reader(uri, version)
            assert set(dataset.schema.names) == {"status", "bucket", *schema.names}
            rows = dataset.to_table(columns=schema.names).to_pylist()
            rows.sort(key=lambda row: (row["user_id"], row["item_id"]))
            expected = published_rows(runs.output, failed, version)
            assert rows == [{name: row[name] for name in schema.names} for row in expected]
            found.append(rows)
        assert sorted(pairs_of(found[0] + found[1])) == sorted({*TWELVE, "nobody i0"})
        assert len(found[1]) == num_failed
    table = read_explanations(uri)
    assert table.schema == GENERATED
    by_pair = [("user_id", "ascending"), ("item_id", "ascending")]
    assert table.sort_by(by_pair).to_pylist() == found[0]
    with pytest.raises(TableError):
        read(uri, 7)


def test_read_of_a_table_of_something_else_is_refused(tmp_path):
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.complete()
    for reader in (read, read_failed, read_explanations):
        with pytest.raises(ArtifactMismatchError):
            reader(toy.run.output.uri)
