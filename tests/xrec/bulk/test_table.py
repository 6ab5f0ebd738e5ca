"""What readers take: the rows of a version, and the rows of one key."""

import pyarrow as pa
import pytest

from tests.world.store import requests_of
from tests.xrec.bulk.toy_run import FORMAT
from xrec.bulk import published

STRANGERS = ("", "u-", "u-1 ", "u-999", "é\u200f\ud7ff", "\U0010ffff")


@pytest.mark.usefixtures("small_windows")
def test_find_at_each_version_gives_exactly_the_rows_of_a_key(toys):
    toys.in_parts(10_000)
    toy = toys("a odd-1 b")
    toy.complete()
    toy.heal()
    toy.complete(retry=["odd"])
    for version, items in ((0, ["a", "b"]), (1, ["a", "b", "odd-1"])):
        table = published(toys.uri, version=version, storage=toys.storage)
        assert table.version == version
        assert table.log.files(version).num_rows > 1
        dataset = table.dataset(FORMAT.ok_schema)
        for user in [*(f"u-{number}" for number in range(12)), *STRANGERS]:
            found = table.find(dataset, "user", [user]).to_pylist()
            assert sorted(row["item"] for row in found) == (
                items if user[2:].isdigit() and user in {row[0] for row in toy.rows} else []
            )
            assert all(row["user"] == user and row["text"] for row in found)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_find_reads_one_file_of_several(toys):
    toys.in_parts(10_000)
    toy = toys("a b c d", num_users=24)
    toy.complete()
    table = toy.published()
    dataset = table.dataset(FORMAT.ok_schema)
    assert table.log.files(0).num_rows > 2
    requests = requests_of(toys.patch)
    assert table.find(dataset, "user", ["u-3"]).num_rows == 4
    assert len(requests) <= 6


def test_batches_give_the_rows_of_a_status_and_at_least_one_table(toys):
    toy = toys("a b")
    toy.complete()
    table = pa.concat_tables(toy.published().batches(["item", "user"]))
    assert sorted(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True)) == (
        toy.rows
    )
    (nothing,) = toy.published().batches(["item"], status="failed")
    assert nothing.num_rows == 0
    assert nothing.schema == pa.schema([pa.field("item", pa.string(), nullable=False)])
