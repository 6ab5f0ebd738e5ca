"""Rules 1 to 3 of xrec.bulk: whose an output is, the plan, the rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from tests.object_store import requests_of
from tests.xrec.bulk.toy_run import FORMAT, IDENTITY, batch_of, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import BulkRun, clean_keys, key_hash, listing_of, open_run, plan
from xrec.bulk.plan import PlanFiles
from xrec.errors import ArtifactMismatchError, DataError, StorageError, TableError
from xrec.storage import Location
from xrec.storage.local import LocalLocation

ROWS = [(f"u-{number}", "i") for number in range(20)]
LISTING = {"rows.parquet": ["1", "2"]}


def opened(
    place: Place,
    rows: list[tuple[str, str]] | None = None,
    *,
    words: int = 3,
    listing: dict[str, list[str]] = LISTING,
) -> BulkRun:
    """Open the run; if `rows` is None, the input must not be read."""

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        assert rows is not None
        yield batch_of(rows)

    return open_run(
        place.uri,
        IDENTITY.model_copy(update={"config": {"words": words}}),
        FORMAT,
        batches,
        listing=listing,
        rows_per_chunk=4,
        storage=place.storage,
    )


# 1. An output belongs to one run.


def test_rule_1_plan_whose_creation_was_answered_late_is_this_drivers(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first request was lost, and the store refuses the second one."""
    create = LocalLocation.create_bytes

    def create_without_answer(location: LocalLocation, data: bytes) -> bool:
        return create(location, data) and not location.uri.endswith("plan.json")

    monkeypatch.setattr(LocalLocation, "create_bytes", create_without_answer)
    record = opened(disk, ROWS).plan.record
    assert opened(disk).plan.record == record


def test_rule_1_another_run_is_refused_with_the_fields_that_differ(place: Place) -> None:
    opened(place, ROWS)
    with pytest.raises(ArtifactMismatchError, match=r"config\.words: 3 there, 4 here\n.*another"):
        opened(place, ROWS, words=4)


def test_rule_1_other_files_are_refused_and_left(disk: Place) -> None:
    stray = disk.location / "part-00000.parquet"
    stray.write_bytes(b"of an older xrec")
    with pytest.raises(TableError, match="holds no table but 1 other files"):
        opened(disk, ROWS)
    assert disk.location.files() == ["part-00000.parquet"]


def test_rule_1_run_that_was_not_planned_yet_belongs_to_the_table_that_is_there(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("xrec.bulk.plan._write", lambda *arguments, **settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened(disk, ROWS)
    with pytest.raises(TableError, match="holds the table of run"):
        opened(disk, ROWS, words=4)
    assert opened(disk, ROWS).plan.record.num_rows == len(ROWS)


def test_rule_1_input_that_cannot_be_read_leaves_the_output_to_another_run(place: Place) -> None:
    with pytest.raises(AssertionError):
        opened(place, None)
    assert place.location.files() == []
    assert opened(place, ROWS, words=4).plan.record.num_rows == len(ROWS)


# 2. A plan that exists is complete, and is trusted where the inputs are the same.


def test_rule_2_plan_is_trusted_without_a_look_at_the_input(place: Place) -> None:
    first = opened(place, ROWS)
    again = opened(place, None)
    assert again.plan.record == first.plan.record
    assert list(again.plan.chunks()) == list(first.plan.chunks())


def test_rule_2_input_whose_files_changed_is_read_and_its_rows_compared(disk: Place) -> None:
    first = opened(disk, ROWS)
    later = {"rows.parquet": ["1", "3"]}
    assert opened(disk, ROWS[::-1], listing=later).plan.record == first.plan.record
    with pytest.raises(
        ArtifactMismatchError, match=r"rows of the input changed.*20 rows there, 19"
    ):
        opened(disk, ROWS[1:], listing=later)
    with pytest.raises(ArtifactMismatchError, match="rows of the input changed"):
        opened(disk, [*ROWS[1:], ("u-20", "i")], listing=later)


def test_rule_2_listing_changes_with_the_file(tmp_path: Path, place: Place) -> None:
    file = place.location / "input" / "rows.parquet"
    file.write_bytes(b"one")
    before = listing_of(place.location / "input")
    assert before == listing_of(place.location / "input")
    assert list(listing_of(file).values()) == list(before.values())
    file.write_bytes(b"two!")
    assert listing_of(place.location / "input") != before


def test_rule_2_driver_that_died_before_plan_json_left_no_plan(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = type(disk.location).create_bytes

    def fails(location: Location, data: bytes) -> bool:
        if location.name == "plan.json":
            raise StorageError("died")
        return create(location, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(disk.location), "create_bytes", fails)
        with pytest.raises(StorageError, match="died"):
            opened(disk, ROWS[:7])
    assert opened(disk, ROWS).plan.record.num_rows == len(ROWS)


def test_rule_2_drivers_that_plan_at_the_same_time_get_one_plan(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: opened(place, ROWS), range(4)))
    records = [run.plan.record for run in runs]
    assert records == [records[0]] * 4
    assert all(rows_in(run) == sorted(ROWS) for run in runs)


@pytest.mark.parametrize("what", ["lost", "cut off", "index"])
def test_rule_2_plan_that_is_no_longer_whole_is_an_error(disk: Place, what: str) -> None:
    record = opened(disk, ROWS).plan.record
    part = disk.location / record.folder / "part-00000.parquet"
    if what == "lost":
        part.delete()
    elif what == "cut off":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        (disk.location / record.folder / "index.parquet").delete()
    with pytest.raises(DataError, match=r"the plan is no longer whole: .* is missing"):
        opened(disk, None)


def test_rows_of_a_chunk_take_one_request_once_the_footer_of_their_part_is_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(place, ROWS)
    units = list(run.units_left(run.table.snapshot()))
    files = PlanFiles(place.location)
    requests = requests_of(monkeypatch)
    rows = [files.rows(unit.file, unit.row_group or 0) for unit in units]
    assert sorted(pa.concat_tables(rows)[FORMAT.keys[0]].to_pylist()) == sorted(u for u, _ in ROWS)
    assert len(units) > 3
    if place.uri.startswith("s3://"):
        assert requests == ["get_object"] * (1 + len(units))


# 3. A row is planned once, or rejected with its reason.


def test_rule_3_rows_are_planned_once_by_the_hash_of_the_first_key(
    disk: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_ROWS_PER_PART", 10)  # several parts
    items = [f"i-{number}" for number in range(9)]
    toy = toy_run(disk, tmp_path, items, num_users=7, rows_per_chunk=4)
    record = toy.run.plan.record
    assert rows_in(toy.run) == toy.rows  # each once, though some were given twice
    assert (record.num_rows, record.num_buckets) == (63, 16)
    assert len(record.parts) > 1
    files = plan.PlanFiles(disk.location)
    for chunk in toy.run.plan.chunks():
        rows = files.rows(chunk.file, chunk.row_group)
        assert 0 < rows.num_rows < 8
        assert rows.num_rows == chunk.num_rows
        assert {key_hash(user) % 16 for user in rows["user"].to_pylist()} == {chunk.number % 16}


def test_rule_3_rejected_rows_are_kept_with_file_line_and_reason(disk: Place) -> None:
    table = pa.table({"user": ["u", None, "v"], "item": pa.array([1.5, 2.0, 3.0])})
    ids = pa.table({"user": [1, 2], "item": [b"\xff", b"i"]})
    batches = [
        clean_keys(table, FORMAT.keys, file="one.parquet", first_line=1),
        clean_keys(ids, FORMAT.keys, file="two.parquet", first_line=100),
    ]
    run = open_run(disk.uri, IDENTITY, FORMAT, lambda: batches, listing=LISTING, rows_per_chunk=4)
    assert rows_in(run) == [("2", "i")]
    rejected = [
        (row["file"], row["line"], row["reason"]) for row in run.plan.rejected().to_pylist()
    ]
    assert rejected == [
        ("one.parquet", 1, "float_id"),
        ("one.parquet", 2, "null_id"),
        ("one.parquet", 3, "float_id"),
        ("two.parquet", 100, "invalid_utf8"),
    ]
    assert run.plan.record.num_rejected == 4


def test_rule_3_input_without_good_rows_is_an_error_that_names_a_rejected_one(disk: Place) -> None:
    table = pa.table({"user": ["u"], "item": [1.5]})
    batch = clean_keys(table, FORMAT.keys, file="one.parquet", first_line=1)
    with pytest.raises(DataError, match=r"1 were rejected, .* one.parquet, line 1: float_id"):
        open_run(disk.uri, IDENTITY, FORMAT, lambda: [batch], listing={}, rows_per_chunk=4)


def rows_in(run: BulkRun) -> list[tuple[str, str]]:
    """The keys of all planned rows, sorted."""
    files = plan.PlanFiles(run.plan.output)
    tables = [files.rows(chunk.file, chunk.row_group) for chunk in run.plan.chunks()]
    rows = pa.concat_tables(tables).to_pylist()
    return sorted((row["user"], row["item"]) for row in rows)


def test_rule_3_format_refuses_two_columns_of_one_name() -> None:
    with pytest.raises(ValueError, match="each name once"):
        type(FORMAT)(keys=("user",), ok=pa.schema([("user", pa.string())]), failed=pa.schema([]))
