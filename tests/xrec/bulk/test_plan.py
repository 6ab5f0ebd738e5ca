"""Rules 1, 2 and 4 of xrec.bulk: a run's name and plan; ids, rows in chunks, and previews."""

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
    drive_carrying,
    rows_of,
    stopped_after,
    toy_request,
    toy_rows,
)
from xrec import bulk
from xrec.bulk.runs import plan
from xrec.bulk.runs.keys import bucket_of, clean_keys
from xrec.bulk.runs.plan import Plan, write_plan
from xrec.bulk.runs.run import RUNS
from xrec.bulk.runs.spill import Spill
from xrec.bulk.status import Preview, preview
from xrec.errors import DataError, LeaseError, StorageError, TableError
from xrec.schemas import REJECTED
from xrec.storage import Location, read_table

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


def test_rule_1_run_has_a_name_by_settings_inputs_and_the_set_of_rows(disk):
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


def test_rule_1_other_files_are_refused_and_left(disk):
    (disk.location / "part-00000.parquet").write_bytes(b"of an older xrec")
    with raises(TableError, "other_files", "part-00000.parquet"):
        opened(disk, ROWS)
    assert disk.location.files() == ["part-00000.parquet"]


def test_rule_1_input_that_cannot_be_read_leaves_no_files(disk):
    with pytest.raises(AssertionError):
        opened(disk, None)
    assert disk.location.files() == []


# 2. A plan is written under a name of its own; the record that is created first names it.
def test_rule_2_drivers_get_one_plan_and_trust_it_without_a_look_at_the_input(disk):
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


@pytest.mark.parametrize("what", ["part-00000.arrow", "cut off", "chunks.parquet", "record"])
def test_rule_2_plan_that_is_gone_is_made_anew(here, what):
    toy = here()
    toy.drive(max_rows=7)
    if what == "cut off":
        (toy.run.folder / "plan" / "part-00000.arrow").write_bytes(b"cut off")
    else:
        (record_of(toy) if what == "record" else toy.run.folder / "plan" / what).delete()
    again = here()
    assert again.run.record.nonce != toy.run.record.nonce
    assert record_of(toy, 0 if what == "record" else 1).is_file()
    again.complete()
    assert rows_of(again.published()) == again.rows
    assert here().run.record == again.run.record


def test_rule_2_rows_are_planned_once_by_the_hash_of_the_first_key(there):
    there.patch.setattr(plan, "PART_BYTES", 4_000)
    there.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = there("a b c d e f g h i", num_users=7, rows_per_chunk=4)
    size = toy.run.record.size
    assert rows_in(toy.run) == toy.rows  # each once, though some were given twice
    assert (size.num_rows, toy.run.record.num_buckets, len(size.parts) > 1) == (63, 16, True)
    planned = toy.run.passes()[0].plan
    requests = requests_of(there.patch)
    chunks = [planned.rows(chunk) for chunk in range(size.num_chunks)]
    assert planned.rows_of_chunks.tolist() == [chunk.num_rows for chunk in chunks]
    rows = pa.concat_tables(chunks).to_pylist()
    assert [row["bucket"] for row in rows] == [bucket_of(row["user"], 16) for row in rows]
    if there.uri.startswith("s3://"):  # the index, and one request a chunk
        assert requests == ["get_object"] * (1 + len(chunks))


def test_rule_2_rejected_rows_are_kept_with_file_line_and_reason(disk):
    table = pa.table({"user": ["u", None, "v"], "item": pa.array([1.5, 2.0, 3.0])})
    ids = pa.table({"user": [1, 2], "item": [b"\xff", b"i"]})
    bad = bulk.clean_keys(table, FORMAT.keys, file="one.parquet", first_line=1)
    batches = [bad, bulk.clean_keys(ids, FORMAT.keys, file="two.parquet", first_line=100)]
    with raises(DataError, "no_rows", "rejected", {"float_id": 2, "null_id": 1}):
        bulk.open_run(toy_request(disk, batches=lambda: [bad]))
    run = bulk.open_run(toy_request(disk, batches=lambda: batches))
    assert rows_in(run) == [("2", "i")]
    rejected = read_table(run.folder / "plan" / "rejected.parquet", REJECTED)
    assert [tuple(row.values())[:3] for row in rejected.to_pylist()] == [
        ("one.parquet", 1, "float_id"),
        ("one.parquet", 2, "null_id"),
        ("one.parquet", 3, "float_id"),
        ("two.parquet", 100, "invalid_utf8"),
    ]
    assert run.record.rejected == {"float_id": 2, "null_id": 1, "invalid_utf8": 1}
    assert run.record.num_rejected == 4


# 4. Who sleeps while the output is deleted writes where nobody looks.
@pytest.mark.parametrize("what", ["record", "all"])
def test_rule_4_driver_that_slept_publishes_nothing_of_an_old_plan(here, what):
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


def clean(
    users: pa.Array, items: pa.Array | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The users of good rows, and line, reason and text of rejected ones."""
    items = pa.array(["i"] * len(users)) if items is None else items
    table = pa.table({"user": users, "item": items})
    good, rejected = clean_keys(table, KEYS, file="ids.parquet", first_line=11)
    assert set(rejected["file"].to_pylist()) <= {"ids.parquet"}
    columns = [rejected[name].to_pylist() for name in ("line", "reason", "text")]
    return good["user"].to_pylist(), list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        *((pa.array([7, 0], type_), ["7", "0"]) for type_ in (pa.int8(), pa.uint64(), pa.int64())),
        (pa.array([2**63 - 1]), ["9223372036854775807"]),
        *((BINARY.cast(type_), STRINGS) for type_ in (pa.string(), pa.large_string(), pa.binary())),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    ],
)
def test_ids_that_have_an_exact_text_are_it(ids, expected):
    assert clean(ids) == (expected, [])


@pytest.mark.parametrize("ids", [BROKEN, BROKEN_TEXT])
def test_invalid_utf8_rejects_its_row_alone(ids):
    rejected = (12, "invalid_utf8", r"user='\\xff\\xfe', item='i'")
    assert clean(ids) == (["good", "also good"], [rejected])


def test_row_without_an_exact_id_is_rejected_once_with_line_and_reason():
    ids = pa.array([12345678901234567.0, math.nan, 5.0, None])
    good, rejected = clean(ids, pa.array(["i", "i", "i", None]))
    reasons = ["float_id", "nan_id", "float_id", "null_id"]
    assert (good, [row[:2] for row in rejected]) == ([], list(enumerate(reasons, 11)))
    assert rejected[2][2] == "user=5.0, item='i'"


def test_column_that_is_missing_or_of_another_type_is_an_error():
    with raises(DataError, "missing_column", "item", ["user"]):
        clean_keys(pa.table({"user": ["u"]}), KEYS, file="f", first_line=1)
    with raises(DataError, "wrong_type", saw="bool"):
        clean(pa.array(["u"]), pa.array([True]))


def test_bucket_of_a_key_is_the_same_in_every_version():
    found = [bucket_of(key, 1024) for key in ("", "u-1", "ü")]
    assert found == [18, 851, 820]
    assert {bucket_of(key, 1) for key in ("", "u-1", "ü")} == {0}


KEY_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("user", "item")])


WIDE = ["", " ", "ü", "e\u0301", "\U0001f642" * 9, "a\x00b", "\uffff", "\U0010ffff", "u-1", "u-10"]


def rows_of_users(sizes: dict[str, int]) -> list[tuple[str, str]]:
    return [(user, f"i-{n}") for user, size in sizes.items() for n in range(size)]


def spilled(rows: list[tuple[str, str]], batch: int = 50) -> Spill:
    """The rows in random order, some of them twice."""
    shuffled = [*rows, *rows[::7]]
    random.Random(len(rows)).shuffle(shuffled)
    tables = [
        pa.table({"user": [u for u, _ in part], "item": [i for _, i in part]}, KEY_SCHEMA)
        for part in (shuffled[n : n + batch] for n in range(0, len(shuffled), batch))
    ]
    return Spill(tables, KEY_SCHEMA)


@pytest.mark.parametrize(
    ("num_buckets", "rows_per_chunk"),
    [(1, 1), (1, 100), (8, 7), (256, 100), (4096, 1), (4096, 10_000)],
)
def test_chunks_have_each_row_once_by_buckets_and_cut_no_user(num_buckets, rows_per_chunk):
    users = [*WIDE, *(f"user {number}" for number in range(150))]
    rows = rows_of_users(
        {user: 1 + number % 4 for number, user in enumerate(users)} | {"large": 40}
    )
    spill = spilled(rows)
    chunks = list(spill.chunks(rows_per_chunk, num_buckets))
    spill.delete()
    assert spill.num_rows == len(rows)
    table = pa.concat_tables(chunks)
    assert sorted(zip(*table.select(["user", "item"]).to_pydict().values(), strict=True)) == sorted(
        rows
    )
    assert all(0 < chunk.num_rows <= rows_per_chunk for chunk in chunks)
    buckets = table["bucket"].to_pylist()
    assert buckets == sorted(buckets)
    assert buckets == [bucket_of(user, num_buckets) for user in table["user"].to_pylist()]
    within = [set(chunk["user"].to_pylist()) for chunk in chunks]
    for one, other in itertools.pairwise(within):
        cut = one & other
        assert all(sum(row[0] == user for row in rows) > rows_per_chunk for user in cut)
    ends = [chunk.num_rows for chunk in chunks[:-1]]
    assert not ends or sum(ends) / len(ends) > 0.5 * min(rows_per_chunk, 40)


def test_ctrl_c_within_a_query_is_the_interrupt_that_every_job_knows(disk):
    """DuckDB makes a RuntimeError of it; any other stays one."""
    for cause, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (None, RuntimeError)):
        with pytest.raises(expected), toy_request(disk).read_rows():
            raise RuntimeError("Query interrupted") from cause


TOY_ROWS = toy_rows()


def never_read() -> Iterator[Any]:
    raise AssertionError("the input was read")


def preview_at(place: Place, **changes: Any) -> Preview:
    """What `toys()` would do at a place."""
    return preview(toy_request(place, **changes))


def test_preview_counts_what_a_plan_would_have_and_writes_nothing(here):
    seen = preview_at(here)
    assert not here.location.exists()
    assert (seen.num_rows, seen.num_left, seen.status, seen.costs_left) == (36, 36, None, None)
    assert seen.num_chunks == here().run.record.size.num_chunks


def test_preview_counts_rejected_rows_and_refuses_what_the_run_would(disk):
    keys = {"user": [1.5, float("nan"), 2.5], "item": ["a", "b", "c"]}
    bad = clean_keys(pa.table(keys), FORMAT.keys, file="rows", first_line=1)
    seen = preview_at(disk, batches=lambda: [batch_of(TOY_ROWS), bad])
    assert (seen.num_rows, seen.rejected) == (36, {"float_id": 2, "nan_id": 1})
    with raises(DataError, "no_rows", "rejected"):
        preview_at(disk, batches=lambda: [bad])
    (disk.location / "photos.zip").write_bytes(b"")
    with raises(TableError, "other_files", "photos.zip"):
        preview_at(disk, batches=never_read)


def test_preview_of_a_canary_reads_no_input_and_reckons_by_its_rate(here):
    toy = here()
    assert preview_at(here, batches=never_read).costs_left is None
    progress = toy.drive(max_rows=13)
    before = here.location.files()
    seen = preview_at(here, batches=never_read)
    assert here.location.files() == before
    assert (seen.num_left, seen.measured_at) == (36 - progress.num_rows, None)
    assert seen.costs_left["tokens"] == pytest.approx(3 * seen.num_left)  # three tokens a row
    per_row = progress.costs["seconds"] / progress.num_rows
    assert seen.costs_left["seconds"] == pytest.approx(per_row * seen.num_left)


def test_preview_of_a_run_that_carries_over_takes_the_share_that_was_carried(here):
    """Two rows of three are carried; before anything is done, none is reckoned to be."""
    here().complete()
    settings = {"identity": OTHER, "carry_from": here.uri}
    assert preview_at(here, **settings).costs_left["tokens"] == 108
    toy = here(**settings)
    with pytest.raises(KeyboardInterrupt):
        drive_carrying(toy, stopped_after(3))
    seen = preview_at(here, **settings, batches=never_read)
    assert 0 < seen.num_left < 36
    assert seen.costs_left["tokens"] == pytest.approx(seen.num_left)
    assert "carried" not in seen.costs_left
    elsewhere = preview_at(here.at("new"), carry_from=here.uri)  # three tokens a row that was done
    assert elsewhere.costs_left["tokens"] == pytest.approx(108)
    drive_carrying((whole := here.at("whole"))("a", **settings))  # all of it was carried
    assert preview_at(here.at("new"), carry_from=whole.uri).costs_left is None


def test_rows_of_many_threads_are_sorted_in_little_memory(monkeypatch):
    """As on a machine of many cores; the product has 1 GB for 1e9 rows."""
    for name, value in {"MEMORY": "24MB", "THREADS": 64, "BYTES_AT_ONCE": 2**18}.items():
        monkeypatch.setattr(f"xrec.bulk.runs.spill.{name}", value)
    num_rows = 400_000

    def batches() -> Iterator[pa.Table]:
        for start in range(0, num_rows, 50_000):
            numbers = range(start, start + 50_000)
            users = [f"user-{number % 70_001}" for number in numbers]
            yield pa.table([users, [f"item-{number}" for number in numbers]], KEY_SCHEMA)

    spill = Spill(batches(), KEY_SCHEMA)
    items, last = set(), (-1, "", "")
    for chunk in spill.chunks(1024, 512):
        rows = list(zip(*chunk.select(["bucket", *FORMAT.keys]).to_pydict().values(), strict=True))
        assert rows == sorted(rows)
        assert rows[0] > last
        last = rows[-1]
        items.update(chunk["item"].to_pylist())
    spill.delete()
    assert spill.num_rows == len(items) == num_rows


def test_lack_of_room_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr("xrec.bulk.runs.spill.MEMORY", "1MB")
    ids = [str(number) for number in range(100_000)]
    with raises(StorageError, "no_room", "TMPDIR"):
        Spill([pa.table([ids, ids], KEY_SCHEMA)], KEY_SCHEMA)


def test_memory_of_writing_a_plan_does_not_grow_with_its_chunks(disk, monkeypatch):
    monkeypatch.setattr("xrec.bulk.runs.plan.PART_BYTES", 2**14)
    rows = pa.table({"bucket": pa.array([0], pa.int32()), "user": ["u"], "item": ["i"]})

    def peak(num_chunks: int) -> int:
        folder = disk.location / str(num_chunks)
        tracemalloc.start()
        size = write_plan(folder, (rows for _ in range(num_chunks)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size.num_chunks == size.num_rows == num_chunks
        assert Plan(folder, size).index["first"].to_pylist() == list(range(num_chunks))
        return most

    assert peak(8_000) < 1.5 * peak(2_000)
