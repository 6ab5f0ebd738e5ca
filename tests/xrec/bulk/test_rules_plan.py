"""Rules 1, 2 and 4 of xrec.bulk: whose folder a run has, its plan, and what a deletion does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from tests.world.here import Place
from tests.world.store import requests_of
from tests.xrec.bulk.toy_run import FORMAT, IDENTITY, Toy, batch_of, rows_of, toy_request
from xrec import bulk
from xrec.bulk import request
from xrec.bulk.runs import plan
from xrec.bulk.runs.keys import bucket_of
from xrec.bulk.runs.run import RUNS
from xrec.errors import ArtifactMismatchError, DataError, LeaseError, StorageError, TableError
from xrec.schemas import REJECTED
from xrec.storage import Location, read_table
from xrec.storage.local import LocalLocation

ROWS = [(f"u-{number}", "i") for number in range(20)]
OTHER = IDENTITY.model_copy(update={"config": {"words": 4}})


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


# 1. A run is named by its settings, its inputs and a hash of its rows.


def test_rule_1_two_runs_work_at_once_and_each_publish_replaces_the_table(toys):
    one, other = toys("a b"), toys("b c d", identity=OTHER)
    assert other.run.folder != one.run.folder
    for toy in (one, other):
        toy.drive(max_rows=7)
    assert one.complete() is not None
    other.drive()
    assert rows_of(one.published()) == one.rows
    other = toys("b c d", identity=OTHER)  # knows of the first
    manifest = other.publish()
    assert manifest.config == {"words": 4}
    assert rows_of(other.published()) == other.rows
    assert rows_of(other.published(0)) == one.rows


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


def test_rule_1_other_files_are_refused_and_left(place):
    (place.location / "part-00000.parquet").write_bytes(b"of an older xrec")
    with pytest.raises(TableError, match=r"holds other files, such as part-00000\.parquet"):
        opened(place, ROWS)
    assert place.location.files() == ["part-00000.parquet"]


def test_rule_1_input_that_cannot_be_read_leaves_no_files(place):
    with pytest.raises(AssertionError):
        opened(place, None)
    assert place.location.files() == []


# 2. A plan is written under a name of its own; the record that is created first names it.


def test_rule_2_drivers_get_one_plan_and_trust_it_without_a_look_at_the_input(place):
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: opened(place, ROWS), range(4)))
    assert [run.record for run in runs] == [opened(place).record] * 4
    assert rows_in(opened(place)) == sorted(ROWS)


def test_rule_2_driver_that_looks_just_before_another_plans_takes_its_plan(place, monkeypatch):
    look, others = request.newest_record, []

    def look_and_be_overtaken(*args: Any) -> Any:
        found = look(*args)
        if not others:
            others.append(None)
            others[0] = opened(place, ROWS).record
        return found

    monkeypatch.setattr(request, "newest_record", look_and_be_overtaken)
    run = opened(place, ROWS)
    assert [run.record] == others
    assert run.is_current()


def test_rule_2_listing_changes_with_the_file(place):
    folder, file = place.location / "input", place.location / "input" / "rows.parquet"
    file.write_bytes(b"one")
    before = bulk.listing_of(folder)
    assert before == bulk.listing_of(folder)
    assert list(bulk.listing_of(file).values()) == list(before.values())
    file.write_bytes(b"two!")
    assert bulk.listing_of(folder) != before


@pytest.mark.parametrize("is_written", [True, False])
def test_rule_2_record_whose_answer_is_lost_or_that_is_not_written(disk, monkeypatch, is_written):
    create = LocalLocation.create_bytes

    def create_badly(location: LocalLocation, data: bytes) -> bool:
        if location.name == "run-0.json" and not is_written:
            raise StorageError("died")
        return create(location, data) and location.name != "run-0.json"

    with monkeypatch.context() as patch:
        patch.setattr(LocalLocation, "create_bytes", create_badly)
        if is_written:
            assert opened(disk, ROWS).record == opened(disk).record
        else:
            with pytest.raises(StorageError, match="died"):
                opened(disk, ROWS)
    assert bulk.check_output(disk.uri) == []
    assert rows_in(opened(disk, ROWS)) == sorted(ROWS)


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


def test_rule_2_record_of_another_xrec_says_so(here):
    record_of(here(), 1).write_bytes(b'{"layout": 4}')
    for do in (here, lambda: bulk.read_status(here.uri)):
        with pytest.raises(ArtifactMismatchError, match=r"xrec reads \([\w.]+: .*\); use the xrec"):
            do()
    assert "not a record that this xrec reads" in bulk.check_output(here.uri)[0].what


def test_rule_2_rows_are_planned_once_by_the_hash_of_the_first_key(toys):
    toys.patch.setattr(plan, "_PART_BYTES", 4_000)
    toys.patch.setattr("xrec.bulk.request.ROWS_PER_BUCKET", 4)
    toy = toys("a b c d e f g h i", num_users=7, rows_per_chunk=4)
    size = toy.run.record.size
    assert rows_in(toy.run) == toy.rows  # each once, though some were given twice
    assert (size.num_rows, toy.run.record.num_buckets, len(size.parts) > 1) == (63, 16, True)
    planned = toy.run.passes()[0].plan
    requests = requests_of(toys.patch)
    chunks = [planned.rows(chunk) for chunk in range(size.num_chunks)]
    assert planned.rows_of_chunks.tolist() == [chunk.num_rows for chunk in chunks]
    rows = pa.concat_tables(chunks).to_pylist()
    assert [row["bucket"] for row in rows] == [bucket_of(row["user"], 16) for row in rows]
    if toys.uri.startswith("s3://"):  # the index, and one request a chunk
        assert requests == ["get_object"] * (1 + len(chunks))


def test_rule_2_rejected_rows_are_kept_with_file_line_and_reason(disk):
    table = pa.table({"user": ["u", None, "v"], "item": pa.array([1.5, 2.0, 3.0])})
    ids = pa.table({"user": [1, 2], "item": [b"\xff", b"i"]})
    bad = bulk.clean_keys(table, FORMAT.keys, file="one.parquet", first_line=1)
    batches = [bad, bulk.clean_keys(ids, FORMAT.keys, file="two.parquet", first_line=100)]
    with pytest.raises(DataError, match=r"3 were rejected, .* one.parquet, line 1: float_id"):
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
def test_rule_4_driver_that_slept_publishes_nothing_of_an_old_plan(toys, what):
    toy = toys()
    toy.drive()
    (record_of(toy) if what == "record" else toys.location).delete()
    toys()
    with pytest.raises(LeaseError, match="deleted and made anew while it was being published"):
        toy.publish()
    assert not (toys.location / "_delta_log").exists()
