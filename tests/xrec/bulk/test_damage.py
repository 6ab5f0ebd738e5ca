"""Damaged files, leftovers, and commits of other programs: no wrong row is read, and none is lost.

`XREC_FLIPS=6000 pytest tests/xrec/bulk/test_damage.py` flips that many bits.
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
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from tests.errors import raises
from tests.fuzz import FEW, IN_MEMORY, MANY, changed_json, examples
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
from xrec.bulk import check_output, open_run, read_status, rollback, take_down, vacuum
from xrec.bulk.read import SUCCESS
from xrec.bulk.results import BrokenResultError
from xrec.bulk.rows import summary_of
from xrec.config import StorageConfig
from xrec.errors import ArtifactMismatchError, DataError, TableError, XRecError
from xrec.storage import LocalLocation, Location
from xrec.storage.s3 import S3Location

NUM_FLIPS = int(os.environ.get("XREC_FLIPS", "80"))
FEWER = settings(FEW, max_examples=10)


def flips(file: Location) -> Iterator[int]:
    """Flip one random bit of the file at a time; yield the position of its byte from the end."""
    draw, good = random.Random(7), file.read_bytes()
    for _ in range(NUM_FLIPS):
        data, place = bytearray(good), draw.randrange(len(good))
        data[place] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(data))
        yield len(good) - place
    file.write_bytes(good)


def damages(file: Location) -> Iterator[int]:
    """Cut the file off, or give its footer another length; yield how many bytes are left."""
    good = file.read_bytes()
    for damaged in (b"", good[: len(good) // 2], good[:-8] + b"\xff\xff\xff\x7f" + good[-4:]):
        file.write_bytes(damaged)
        yield len(damaged)
    file.write_bytes(good)


def test_flipped_bit_of_a_result_is_never_read_as_other_rows(here):
    toy = here("a b c d", num_users=32, rows_per_chunk=128)
    toy.drive()
    results, name, schema = toy.run.passes()[0].results, "0000000.parquet", FORMAT.table_schema
    file, good, num_in_footers = results.location / name, results.read(0, schema), 0
    footer_bytes = int.from_bytes(file.read_bytes()[-8:-4], "little") + 8
    for from_end in itertools.chain(flips(file), damages(file)):
        num_in_footers += from_end <= footer_bytes
        with pytest.raises(BrokenResultError):
            results.read(0, schema)
        assert results.doubted() == {0}
        (results.location / f"{name}.unreadable").delete()
        assert results.summary(name) in (None, good[1])
        assert results.find(0) is None
    assert num_in_footers >= NUM_FLIPS / 10
    assert results.read(0, schema) == good


def test_flipped_bit_of_a_plan_is_an_error_and_never_other_rows(here):
    toy = here(num_users=20, rows_per_chunk=40)
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


def test_command_redoes_all_damaged_results_once_and_then_names_the_one_that_is_damaged_again(here):
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
    for file in (results_of[1], second):  # as the message says
        file.delete()
    toy.complete()
    assert rows_of(toy.published()) == toy.rows


def toy_of(folder: Path) -> Toy:
    return toy_run(Place(f"{folder}/out", StorageConfig()), folder, ["a", "odd-1"], num_users=6)


@pytest.fixture(scope="module")
def output():
    """A table of three versions, with a takedown and a retry, and the contents of its files."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        place, toy = Place(f"{folder}/out", StorageConfig()), toy_of(Path(folder))
        toy.complete()
        take_down(place.uri, rows=[{"user": "u-1", "item": "a"}], reason="it is wrong")
        toy.complete(retry=["odd"])
        yield toy, {name: (place.location / name).read_bytes() for name in place.location.files()}


NAMES = ("_delta_log/", "run-0.json", "driver.json", "counted.json", "pass-1.json", "000001.json")


def result_of(do: Callable[[], object]) -> object:
    """Return the result, or None after an XRecError."""
    with suppress(XRecError):
        return do()
    return None


@pytest.mark.parametrize("how", [FEWER, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_log_entry_or_record_is_read_right_or_refused_and_no_row_is_lost(output, how):
    """It is cut off, garbage, missing, or has other values."""
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
        shown = result_of(lambda: rows_of(toy.published()))
        is_of_log = name.startswith("_delta_log/")
        assert shown in (None, left) or (is_of_log and {*shown} <= {*toy.rows})
        result_of(lambda: check_output(place.uri))
        result_of(lambda: read_status(place.uri))
        result_of(lambda: rollback(place.uri, 0))
        result_of(lambda: toy_of(Path(place.path).parent))
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


def test_suspended_export_notices_that_another_one_took_its_folder(here):
    toy = here("a b c odd-1")
    toy.complete()
    toy.complete(retry=["odd"])
    original, patch = LocalLocation.write_bytes, pytest.MonkeyPatch()

    def late(*arguments: Any) -> Any:
        patch.undo()
        target_of(here).delete()
        export(here, version=1)
        return original(*arguments)

    patch.setattr(LocalLocation, "write_bytes", late)
    with raises(ArtifactMismatchError, "changed_meanwhile"):
        export(here, version=0)
    assert SUCCESS not in target_of(here).files()


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
def test_commits_of_other_programs_make_nothing_unusable(here, what):
    here.in_parts(3000)
    first = here("a", identity=OTHER)
    first.complete()
    toy = here("a odd-1 dull-2", carry_from=here.uri)
    toy.complete()
    OTHERS[what](table_at(here))
    if what == "checkpoint":
        for file in Path(here.uri, "_delta_log").iterdir():
            os.utime(file, (1_700_000_000, 1_700_000_000))
        OTHERS[what](table_at(here))  # keeps old entries, which record what is published
    left = {"delete": [row for row in toy.rows if row[1] != "a"], "restore": first.rows}
    assert rows_of(toy.published()) == left.get(what, toy.rows)
    assert check_output(here.uri) == []
    toy.heal()
    with here.patch.context() as patch:  # between opening the table and the commit
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
    """Some stores answer a conditional write with 501, and others ignore the condition."""
    if not refuses:
        there.patch.setattr(S3Location, "create_bytes", lambda at, data: not at.write_bytes(data))
    refused = "If-None-Match" if refuses else None
    with faulty_proxy(there.storage.endpoint_url, Faults(0.0, refused=refused)) as url:
        place = Place(there.uri, there.storage.model_copy(update={"endpoint_url": url}))
        with raises(TableError, "no_conditional_writes"):
            open_run(toy_request(place, batches=lambda: 1 / 0))
