"""Damaged files, leftovers, commits of other programs and bad places: nothing is read that was not
written, and nothing is lost.

`XREC_FLIPS=6000 pytest tests/xrec/bulk/test_damage.py` flips as many bits.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from hypothesis import strategies as st

import xrec.bulk.read
from tests.errors import raises
from tests.fuzz import FEW_OR_MANY, IN_MEMORY, changed_json, examples
from tests.world.here import Place, PoolHere
from tests.world.store import Faults, faulty_proxy
from tests.xrec.bulk.test_export import export, target_of
from tests.xrec.bulk.toy_run import (
    FORMAT,
    OTHER,
    Toy,
    commit_once,
    rows_of,
    table_at,
    toy_request,
    toy_run,
)
from xrec.bulk import Outcome, check_output, open_run, read_status, rollback, take_down, vacuum
from xrec.bulk.read import SUCCESS
from xrec.bulk.results import BrokenResultError, ResultFolder
from xrec.bulk.rows import summary_of
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, DataError, TableError, XRecError
from xrec.storage import LocalLocation, Location
from xrec.storage.s3 import S3Location

NUM_FLIPS = int(os.environ.get("XREC_FLIPS", "80"))


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
    ok = pa.table(
        {
            "user": [f"user-{number // 4}" for number in range(128)],
            "item": [f"item-{number % 4}" for number in range(128)],
            "text": [" ".join(draw.choices(words, k=45)) for _ in range(128)],
            "num_tokens": [draw.randrange(99) for _ in range(128)],
        }
    ).cast(FORMAT.ok_schema)
    planned = ok.select(["user", "item"]).append_column("bucket", pa.array([0] * 128, pa.int32()))
    outcome = Outcome(ok, FORMAT.failed_schema.empty_table())
    rows = FORMAT.as_results(planned, FORMAT.as_done(outcome).rows)
    summary = summary_of(rows, costs={"seconds": 2.5})
    folder.create(3, rows, summary)
    name, schema = "0000003.parquet", FORMAT.table_schema
    file = folder.location / name
    assert folder.read(3, schema) == (rows, summary)
    num_in_footers = 0
    footer_bytes = int.from_bytes(file.read_bytes()[-8:-4], "little") + 8
    for from_end in itertools.chain(flips(file), map(len, damages(file))):
        num_in_footers += from_end <= footer_bytes
        with pytest.raises(BrokenResultError):
            folder.read(3, schema)
        assert folder.doubted() == {3}
        (folder.location / f"{name}.unreadable").delete()
        assert folder.summary(name) in (None, summary)
        assert folder.find(3) is None
    assert num_in_footers >= NUM_FLIPS / 10
    assert folder.find(3)[1] == summary


def test_flipped_bit_of_a_plan_is_an_error_and_never_other_rows(here):
    toy = here(num_users=40, rows_per_chunk=40)
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


def damages(file: Location) -> Iterator[bytes]:
    """Leave only a part of the file, or have zeros or another length in it."""
    data = file.read_bytes()
    num_bytes = int.from_bytes(data[-8:-4], "little")
    for damaged in (
        b"",
        data[: len(data) // 2],
        data[:-8] + b"\xff\xff\xff\x7f" + data[-4:],
        data[: -8 - num_bytes] + bytes(num_bytes) + data[-8:],
        data[:4] + bytes(300) + data[304:],
    ):
        file.write_bytes(damaged)
        yield damaged
    file.write_bytes(data)


def test_damaged_results_are_all_done_once_more_by_one_command_and_then_named(here):
    toy = here("a odd-1")
    toy.drive()
    results = toy.run.passes()[0].results.location
    results_of = [results / f"000000{chunk}.parquet" for chunk in range(4)]
    results_of[1].write_bytes(results_of[1].read_bytes()[:-40])
    results_of[3].write_bytes(results_of[2].read_bytes())  # of another chunk
    manifest = toy.complete(pool := PoolHere())
    assert (sorted(pool.done), manifest.row_counts) == ([1, 3], {"explanations": 12, "failed": 12})
    assert rows_of(toy.published()) == toy.rows
    second = results / "0000001~1.parquet"
    second.write_bytes(b"")
    (here.location / "_delta_log").delete()
    for _ in range(2):
        with raises(DataError, "lost_result", "0000001.parquet"):
            toy.complete(pool := PoolHere())
        assert len(pool.done) <= 1
    for file in (results_of[1], second):  # what the message says
        file.delete()
    toy.complete()
    assert rows_of(toy.published()) == toy.rows


def toy_of(folder: Path) -> Toy:
    return toy_run(Place(f"{folder}/out", StorageConfig()), folder, ["a", "odd-1"], num_users=6)


@pytest.fixture(scope="module")
def output():
    """A table of two versions, with a takedown and a retry, and its files by name."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        place, toy = Place(f"{folder}/out", StorageConfig()), toy_of(Path(folder))
        toy.complete()
        take_down(place.uri, rows=[{"user": "u-1", "item": "a"}], reason="it is wrong")
        toy.complete(retry=["odd"])
        yield toy, {name: (place.location / name).read_bytes() for name in place.location.files()}


NAMES = ("_delta_log/", "run-0.json", "driver.json", "counted.json", "pass-1.json", "000001.json")


def ends_well(do: Callable[[], object]) -> object:
    """What it returns, or None if an error of xrec ends it; no other may."""
    with suppress(XRecError):
        return do()
    return None


@FEW_OR_MANY
def test_json_of_any_content_is_read_right_or_refused_and_nothing_is_lost(output, how):
    """Entries of the log, and all records, are cut off, garbage, gone, or have other values."""
    toy, files = output
    place = toy.run.output
    some = sorted(name for name in files if any(each in name for each in NAMES))
    left = [row for row in toy.rows if row != ("u-1", "a")]

    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(some))
        wrong = data.draw(st.none() | st.binary() | changed_json(files[name]))
        if wrong is None:
            (place / name).delete()
        else:
            (place / name).write_bytes(wrong)
        shown = ends_well(lambda: rows_of(toy.published()))
        is_of_log = name.startswith("_delta_log/")
        assert shown in (None, left) or (is_of_log and {*shown} <= {*toy.rows})
        ends_well(lambda: check_output(place.uri))
        ends_well(lambda: read_status(place.uri))
        ends_well(lambda: rollback(place.uri, 0))
        ends_well(lambda: toy_of(Path(place.path).parent))
        place.delete()
        for each, content in files.items():
            (place / each).write_bytes(content)
        assert toy.complete() is not None
        assert rows_of(toy.published()) == left

    examples(how, check, data=st.data())


def test_results_without_a_planned_row_are_not_published(here):
    toy = here("a odd-1")
    toy.drive()
    results, schema = toy.run.passes()[0].results, FORMAT.table_schema
    rows, _ = results.read(1, schema)
    (results.location / "0000001.parquet").delete()
    fewer = rows.slice(1)
    results.create(1, fewer, summary_of(fewer))
    with raises(DataError, "wrong_number_of_rows", saw=23):
        toy.complete()
    assert not (here.location / "_delta_log").exists()


@pytest.mark.parametrize("at", ["row_groups", "write_bytes"])
def test_fault_2_export_that_wakes_late_spoils_no_other_unnoticed(here, at):
    toy = here("a b c odd-1")
    toy.complete()
    toy.complete(retry=["odd"])
    holder = LocalLocation if at == "write_bytes" else xrec.bulk.read
    original, patch = getattr(holder, at), pytest.MonkeyPatch()

    def late(*arguments: Any) -> Any:
        patch.undo()
        target_of(here).delete()
        export(here, version=1)
        return original(*arguments)

    patch.setattr(holder, at, late)
    with raises(ArtifactMismatchError, "changed_meanwhile"):
        export(here, version=0)
    assert SUCCESS not in target_of(here).files()


@pytest.mark.parametrize("said", [b"", b'{"version":7,"size":3}'])
def test_fault_6_wrong_last_checkpoint_breaks_nothing(here, said):
    toy = here("a odd-1")
    toy.complete()
    hint = here.location / "_delta_log" / "_last_checkpoint"
    hint.write_bytes(said)
    assert rows_of(toy.published()) == toy.rows
    assert check_output(here.uri) == []
    toy.heal()
    assert toy.complete(retry=["odd"]).version == 1
    table_at(here).create_checkpoint()
    hint.write_bytes(said)
    assert rows_of(toy.published(), "ok") == toy.rows
    assert here("b", identity=OTHER).complete().version == 2
    assert rollback(here.uri, 1) == 3


OTHERS: dict[str, Callable[[deltalake.DeltaTable], Any]] = {
    "delete": lambda table: table.delete("item = 'a'"),
    "restore": lambda table: table.restore(0),
    "checkpoint": lambda table: (
        table.alter.set_table_properties({"delta.appendOnly": "false"}),
        table.create_checkpoint(),
        table.cleanup_metadata(),
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_fault_9_commits_of_other_programs_make_nothing_unusable(here, what):
    here.in_parts(5000)
    first = here("a", num_users=30, identity=OTHER)
    first.complete()
    toy = here("a odd-1 dull-2", carry_from=here.uri)
    toy.complete()
    OTHERS[what](table_at(here))
    if what == "checkpoint":
        for file in Path(here.uri, "_delta_log").iterdir():
            os.utime(file, (1_700_000_000, 1_700_000_000))
        OTHERS[what](table_at(here))  # deletes no old entries, for they say what is published
    left = {"delete": [row for row in toy.rows if row[1] != "a"], "restore": first.rows}
    assert rows_of(toy.published()) == left.get(what, toy.rows)
    assert check_output(here.uri) == []
    toy.heal()
    with here.patch.context() as patch:  # and one between a look at the table and the commit
        other = OTHERS["delete" if what == "restore" else what]  # a restore is a rollback
        commit_once(patch, lambda: other(table_at(here)))
        here("a odd-1 dull-2").complete(retry=["odd"], republish=True)
    assert rows_of(toy.published()) == toy.rows
    carried = here("a z", carry_from=here.uri)
    carried.complete()
    assert rows_of(carried.published()) == carried.rows
    vacuum(here.uri, timedelta(hours=1))
    assert check_output(here.uri) == []


@pytest.mark.parametrize("refuses", [True, False])
def test_run_on_a_store_without_conditional_writes_is_refused(there, refuses):
    """Some stores answer a write with a condition by 501, others write whatever it is."""
    if not refuses:
        there.patch.setattr(S3Location, "create_bytes", lambda at, data: not at.write_bytes(data))
    refused = "If-None-Match" if refuses else None
    with faulty_proxy(there.storage.endpoint_url, Faults(0.0, refused=refused)) as url:
        place = Place(there.uri, there.storage.model_copy(update={"endpoint_url": url}))
        with raises(TableError, "no_conditional_writes"):
            open_run(toy_request(place, batches=lambda: 1 / 0))
