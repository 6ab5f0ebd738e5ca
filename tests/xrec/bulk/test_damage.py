"""Single bits of results and plans change on the store: nothing is read that was not written.

`XREC_FLIPS=6000 pytest tests/xrec/bulk/test_damage.py` draws as many of them.
"""

import os
import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.world.here import PoolHere
from tests.xrec.bulk.toy_run import FORMAT, rows_of
from xrec.bulk.runs.result import BrokenResultError, ResultFolder, summary_of
from xrec.errors import DataError
from xrec.storage import Location

NUM_FLIPS = int(os.environ.get("XREC_FLIPS", "200"))


def flips(file: Location) -> Iterator[int]:
    """Change a bit of the file, again and again; yields which byte, counted from its end."""
    draw, good = random.Random(7), file.read_bytes()
    for _ in range(NUM_FLIPS):
        data, place = bytearray(good), draw.randrange(len(good))
        data[place] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(data))
        yield len(good) - place
    file.write_bytes(good)


def test_flipped_bit_of_a_result_is_never_read_as_other_rows(here):
    draw, folder = random.Random(1), ResultFolder(here.location / "results")
    words = ["good", "tea", "nice", "place", "the", "with", "music"]
    ok = pa.Table.from_pylist(
        [
            {
                "user": f"user-{user}",
                "item": f"item-{item}",
                "text": " ".join(draw.choices(words, k=45)),
                "num_tokens": draw.randrange(99),
            }
            for user in range(32)
            for item in range(4)
        ],
        FORMAT.ok_schema,
    )
    planned = ok.select(["user", "item"]).append_column("bucket", pa.array([0] * 128, pa.int32()))
    rows = FORMAT.as_results(planned, ok, FORMAT.failed_schema.empty_table())
    summary = summary_of(rows, ["user", "item"], costs={"seconds": 2.5})
    folder.create(3, rows, summary)
    name, schema = "0000003.parquet", FORMAT.table_schema
    assert folder.read(name, schema) == (rows, summary)
    num_in_footers = 0
    footer_bytes = int.from_bytes((folder.location / name).read_bytes()[-8:-4], "little") + 8
    for from_end in flips(folder.location / name):
        num_in_footers += from_end <= footer_bytes
        with pytest.raises(BrokenResultError):
            folder.read(name, schema)
        assert folder.doubted() == {3}
        (folder.location / f"{name}.unreadable").delete()
        assert folder.summary(name) in (None, summary)
        assert folder.standing(3) is None
    assert num_in_footers >= NUM_FLIPS / 10
    assert folder.standing(3) == summary


def test_flipped_bit_of_a_plan_is_an_error_and_never_other_rows(here):
    toy = here(num_users=40)
    plan = toy.run.passes()[0].plan
    good = [plan.rows(chunk) for chunk in range(plan.size.num_chunks)]
    for file in ("part-00000.arrow", "chunks.parquet"):
        num_errors = 0
        for _ in flips(plan.folder / file):
            for chunk, rows in enumerate(good):
                try:
                    assert toy.run.passes()[0].plan.rows(chunk).equals(rows)
                except DataError:
                    num_errors += 1
        assert num_errors >= NUM_FLIPS


def footer_of_zeros(data: bytes) -> bytes:
    num_bytes = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - num_bytes] + bytes(num_bytes) + data[-8:]


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "longer footer": lambda data: data[:-8] + b"\xff\xff\xff\x7f" + data[-4:],
    "footer of zeros": footer_of_zeros,
    "one bit of the footer": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "body of zeros": lambda data: data[:4] + bytes(300) + data[304:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_are_all_done_once_more_by_one_command(toys, damage):
    toy = toys("a odd-1")
    toy.drive()
    results = toy.run.passes()[0].results
    for name in ("0000001.parquet", "0000003.parquet"):
        data = (results.location / name).read_bytes()
        (results.location / name).write_bytes(DAMAGES[damage](data))
    manifest = toy.complete(pool := PoolHere())
    assert (sorted(pool.done), manifest.row_counts) == ([1, 3], {"explanations": 12, "failed": 12})
    assert rows_of(toy.published()) == toy.rows


def test_result_under_another_chunks_name_is_done_once_more(here):
    toy = here("a odd-1")
    toy.drive()
    folder = toy.run.passes()[0].results.location
    (folder / "0000001.parquet").write_bytes((folder / "0000002.parquet").read_bytes())
    assert toy.complete(pool := PoolHere()) is not None
    assert pool.done == [1]
    assert rows_of(toy.published()) == toy.rows


def test_results_without_a_planned_row_are_not_published(here):
    """As if a row had been lost between the task and the file."""
    toy = here("a odd-1")
    toy.drive()
    results, schema = toy.run.passes()[0].results, FORMAT.table_schema
    rows, _ = results.read("0000001.parquet", schema)
    (results.location / "0000001.parquet").delete()
    fewer = rows.slice(1)
    results.create(1, fewer, summary_of(fewer, ["user", "item"]))
    with pytest.raises(DataError, match=r"24 rows are planned and 0 .* the results have 23"):
        toy.complete()
    assert not (here.location / "_delta_log").exists()
