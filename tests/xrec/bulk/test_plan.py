"""Rules 1, 2 and 4 of xrec.bulk: names and plans of runs, IDs, chunks, and previews."""

import itertools
import math
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.here import Place
from tests.world.store import requests_of
from tests.xrec.bulk.toy_run import (
    FORMAT,
    IDENTITY,
    OTHER,
    Toy,
    batch_of,
    rows_of,
    toy_request,
    toy_rows,
)
from xrec import bulk
from xrec.bulk import plan
from xrec.bulk.input import Input, clean_keys
from xrec.bulk.plan import Plan, write_plan
from xrec.bulk.rows import bucket_of
from xrec.bulk.run import RUNS
from xrec.bulk.status import Preview, preview
from xrec.errors import DataError, LeaseError, TableError
from xrec.schemas import REJECTED
from xrec.storage import Location

ROWS = [(f"u-{number}", "i") for number in range(20)]


def opened(place: Place, rows: list[tuple[str, str]] | None = None, **changes: Any) -> bulk.BulkRun:
    """Open the run; if `rows` is None, the input must not be read."""

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        assert rows is not None
        yield batch_of(rows)

    settings = {"batches": batches, "listing": {}, "rows_per_chunk": 4, **changes}
    return bulk.open_run(toy_request(place, **settings))


def rows_in(run: bulk.BulkRun) -> list[tuple[str, str]]:
    planned = run.passes()[0].plan
    tables = [planned.rows(chunk) for chunk in range(run.record.size.num_chunks)]
    return sorted((row["user"], row["item"]) for row in pa.concat_tables(tables).to_pylist())


def record_of(toy: Toy, number: int = 0) -> Location:
    return toy.run.output / RUNS / toy.run.record.run / f"run-{number}.json"


def test_rule_1_run_is_named_by_its_settings_inputs_and_set_of_rows(disk):
    inputs = IDENTITY.model_copy(update={"inputs": {"rows": "others"}})
    first = opened(disk, ROWS)
    runs = [
        first,
        opened(disk, ROWS, identity=OTHER),
        opened(disk, ROWS, identity=inputs),
        opened(disk, ROWS[1:], listing={"rows": ["1"]}),
        opened(disk, [*ROWS[1:], ("u-20", "i")], listing={"rows": ["2"]}),
    ]
    assert len({run.record.run for run in runs}) == 5
    assert opened(disk, ROWS[::-1], listing={"rows": ["3"]}).record == first.record


def test_rule_2_concurrent_drivers_get_one_plan_and_later_ones_do_not_read_the_input(disk):
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: opened(disk, ROWS), range(4)))
    assert [run.record for run in runs] == [opened(disk).record] * 4
    assert rows_in(opened(disk)) == sorted(ROWS)


def test_rule_2_listing_changes_with_the_file(place):
    folder, file = place.location / "input", place.location / "input" / "rows.parquet"
    file.write_bytes(b"one")
    before = bulk.listing_of(folder)
    assert before == bulk.listing_of(folder)
    assert list(bulk.listing_of(file).values()) == list(before.values())
    file.write_bytes(b"two!")
    assert bulk.listing_of(folder) != before


@pytest.mark.parametrize("what", ["part-00000.arrow", "chunks.parquet", "record"])
def test_rule_2_missing_plan_is_made_again(here, what):
    toy = here()
    toy.drive(max_rows=7)
    (record_of(toy) if what == "record" else toy.run.folder / "plan" / what).delete()
    if what == "part-00000.arrow":
        (toy.run.folder / "plan" / what).write_bytes(b"cut off")
    again = here()
    assert again.run.record.nonce != toy.run.record.nonce
    assert record_of(toy, 0 if what == "record" else 1).is_file()
    again.complete()
    assert rows_of(again.published()) == again.rows
    assert here().run.record == again.run.record


def test_rule_2_each_chunk_is_read_in_one_request(there):
    there.patch.setattr(plan, "PART_BYTES", 4_000)
    toy = there("a b c d e f g h i", num_users=7, rows_per_chunk=4)
    size, planned = toy.run.record.size, toy.run.passes()[0].plan
    requests = requests_of(there.patch)
    chunks = [planned.rows(chunk).num_rows for chunk in range(size.num_chunks)]
    assert planned.rows_of_chunks.tolist() == chunks
    assert (sum(chunks), len(size.parts) > 1) == (63, True)
    assert requests == ["get_object"] * (1 + len(chunks))  # one for the index


@pytest.mark.parametrize("what", ["record", "all"])
def test_rule_4_suspended_driver_publishes_nothing_of_an_old_plan(here, what):
    toy = here()
    toy.drive()
    (record_of(toy) if what == "record" else here.location).delete()
    here()
    with raises(LeaseError, "plan_replaced"):
        toy.publish()
    assert not (here.location / "_delta_log").exists()


KEYS = ("user", "item")
STRINGS = ["ü", "", "a\x1fb", " x ", "007"]
BINARY = pa.array([text.encode() for text in STRINGS], pa.binary())
BROKEN = pa.array([b"good", b"\xff\xfe", b"also good"], pa.binary())
BROKEN_TEXT = pa.Array.from_buffers(pa.string(), 3, BROKEN.buffers())  # as Parquet may have it
INVALID = [(12, "invalid_utf8", r"user='\\xff\\xfe', item='i'")]
NOT_EXACT = [
    (11, "float_id", "user=1.2345678901234568e+16, item='i'"),
    (12, "nan_id", "user=nan, item='i'"),
    (13, "null_id", "user=None, item='i'"),
]


def clean(users: pa.Array, items: pa.Array | None = None) -> tuple[list[str], list[Any]]:
    """Return the users of good rows, and the line, reason and text of rejected ones."""
    items = pa.array(["i"] * len(users)) if items is None else items
    table = pa.table({"user": users, "item": items})
    good, rejected = clean_keys(table, KEYS, file="ids.parquet", first_line=11)
    assert set(rejected["file"].to_pylist()) <= {"ids.parquet"}
    columns = [rejected[name].to_pylist() for name in ("line", "reason", "text")]
    return good["user"].to_pylist(), list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("ids", "good", "rejected"),
    [
        (pa.array([7, 0], pa.uint64()), ["7", "0"], []),
        (pa.array([2**63 - 1]), ["9223372036854775807"], []),
        *((BINARY.cast(kind), STRINGS, []) for kind in (pa.string(), pa.binary())),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"], []),
        *((broken, ["good", "also good"], INVALID) for broken in (BROKEN, BROKEN_TEXT)),
        (pa.array([12345678901234567.0, math.nan, None]), [], NOT_EXACT),
    ],
)
def test_ids_become_their_exact_text_or_are_rejected(ids, good, rejected):
    assert clean(ids) == (good, rejected)


def test_bucket_of_a_key_is_the_same_in_every_version():
    assert [bucket_of(key, 1024) for key in ("", "u-1", "ü")] == [18, 851, 820]


KEY_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("user", "item")])


WIDE = ["", " ", "ü", "e\u0301", "\U0001f642" * 9, "a\x00b", "\uffff", "\U0010ffff", "u-1", "u-10"]


def spilled(rows: list[tuple[str, str]]) -> Input:
    """Return an input of the rows in random order, some of them twice."""
    shuffled = [*rows, *rows[::7]]
    random.Random(len(rows)).shuffle(shuffled)
    parts = (shuffled[start : start + 50] for start in range(0, len(shuffled), 50))
    return Input([batch_of(part) for part in parts], KEY_SCHEMA)


@pytest.mark.parametrize(
    ("num_buckets", "rows_per_chunk"),
    [(1, 100), (8, 7), (4096, 1), (4096, 10_000)],
)
def test_chunks_have_each_row_once_and_split_only_large_users(num_buckets, rows_per_chunk):
    users = [*WIDE, *(f"user {number}" for number in range(60))]
    sizes = {user: 1 + number % 4 for number, user in enumerate(users)} | {"large": 40}
    rows = [(user, f"i-{number}") for user, size in sizes.items() for number in range(size)]
    spill = spilled(rows)
    chunks = list(spill.chunks(rows_per_chunk, num_buckets))
    spill.close()
    table = pa.concat_tables(chunks)
    found = zip(*table.select(KEYS).to_pydict().values(), strict=True)
    assert sorted(found) == sorted(rows)
    assert spill.num_rows == len(rows)
    assert all(0 < chunk.num_rows <= rows_per_chunk for chunk in chunks)
    buckets = table["bucket"].to_pylist()
    assert buckets == sorted(buckets)
    assert buckets == [bucket_of(user, num_buckets) for user in table["user"].to_pylist()]
    for one, other in itertools.pairwise(set(chunk["user"].to_pylist()) for chunk in chunks):
        assert all(sizes[user] > rows_per_chunk for user in one & other)
    ends = [chunk.num_rows for chunk in chunks[:-1]]
    assert not ends or sum(ends) / len(ends) > 0.5 * min(rows_per_chunk, 40)


def never_read() -> Iterator[Any]:
    raise AssertionError("the input was read")


def preview_at(place: Place, **changes: Any) -> Preview:
    return preview(toy_request(place, **changes))


def test_preview_counts_rows_without_writing_and_refuses_what_the_run_would(here):
    keys = {"user": [1.5, float("nan"), 2.5], "item": ["a", "b", "c"]}
    bad = clean_keys(pa.table(keys), FORMAT.keys, file="rows", first_line=1)
    seen = preview_at(here, batches=lambda: [batch_of(toy_rows()), bad])
    assert (seen.num_rows, seen.num_left, seen.status, seen.costs_left) == (36, 36, None, None)
    assert seen.rejected == {"float_id": 2, "nan_id": 1}
    with raises(DataError, "no_rows", "rejected"):
        preview_at(here, batches=lambda: [bad])
    assert not here.location.exists()
    assert seen.num_chunks == here().run.record.size.num_chunks
    other = here.at("other")
    (other.location / "photos.zip").write_bytes(b"")
    for do in (preview_at, opened):
        with raises(TableError, "other_files", "photos.zip"):
            do(other, batches=never_read)


def test_given_columns_of_duplicate_rows_come_from_one_of_them():
    given = pa.schema([("rank", pa.int32()), ("score", pa.float32())])
    rows = [("u", "a", 3, 0.25), ("u", "a", 1, 0.5), ("u", "b", None, 0.75), ("u", "b", 2, 1.0)]
    columns = map(pa.array, zip(*rows, strict=True))
    table = pa.table([*columns], [*KEY_SCHEMA.names, *given.names])
    good = table.cast(pa.schema([*KEY_SCHEMA, *given]))
    spill = Input([(good, REJECTED.empty_table())], KEY_SCHEMA, given)
    (chunk,) = spill.chunks(10, 1)
    kept = chunk.select(["item", "rank", "score"]).to_pylist()
    assert kept == [
        {"item": "a", "rank": 1, "score": 0.5},
        {"item": "b", "rank": 2, "score": 1.0},
    ]


def test_memory_of_writing_a_plan_does_not_grow_with_its_chunks(disk, monkeypatch):
    monkeypatch.setattr(plan, "PART_BYTES", 2**14)
    rows = pa.table({"bucket": pa.array([0], pa.int32()), "user": ["u"], "item": ["i"]})
    peaks = []

    def chunks() -> Iterator[pa.Table]:
        for _ in range(2):
            tracemalloc.reset_peak()
            yield from [rows] * 1_024  # as many as the index holds before it writes
            peaks.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    size = write_plan(disk.location, chunks())
    tracemalloc.stop()
    assert size.num_chunks == size.num_rows == 2_048
    assert Plan(disk.location, size).index["first"].to_pylist() == list(range(2_048))
    assert peaks[1] < 1.2 * peaks[0]
