"""The nine faults of the design before this one (issue 38), and bad places for a run."""

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import deltalake
import pytest

import xrec.bulk.export
from tests.world.here import Killed, Place, PoolHere
from tests.world.store import Faults, faulty_proxy
from tests.xrec.bulk.test_export import export, target_of
from tests.xrec.bulk.test_rules_plan import OTHER
from tests.xrec.bulk.test_rules_publish import commit_once, table_at
from tests.xrec.bulk.toy_run import EAGER, IDENTITY, Toy, die_here, rows_of, toy_request
from xrec.bulk import check_output, open_run, read_status, rollback, vacuum
from xrec.bulk.export import SUCCESS
from xrec.errors import ArtifactMismatchError, DataError, LeaseError, StorageError, TableError
from xrec.storage.s3 import S3Location


def errors_at(place: Place) -> list[str]:
    found = check_output(place.uri, place.storage)
    return [finding.what for finding in found if finding.severity == "error"]


# 1. A driver is stopped, the output deleted, another run begins and ends, and the first wakes.


@pytest.mark.parametrize("when", ["work", "commit"])
@pytest.mark.parametrize("is_same", [True, False])
def test_fault_1_driver_that_wakes_late_is_harmless(toys, when, is_same):
    identity, later = IDENTITY if is_same else OTHER, []

    def deleted_and_made_again(*arguments: object) -> None:
        if not later:
            toys.location.delete()
            later.append(toys("a x", identity=identity))
            later[0].complete()

    toy = toys("a x" if is_same else "a b c")
    if when == "work":
        with pytest.raises(LeaseError, match="deleted and made anew while this driver was at"):
            toy.complete(on_progress=deleted_and_made_again, clock=EAGER)
    else:
        commit_once(toys.patch, deleted_and_made_again)
        with pytest.raises(TableError, match=r"another publish \(version 0\) came"):
            toy.complete()
    table = later[0].published()
    assert (rows_of(table), table.manifest.config) == (later[0].rows, identity.config)
    assert errors_at(toys) == []
    assert read_status(toys.uri, toys.storage).phase() == "published"


@pytest.mark.parametrize("step", ["_write 0", "_check 0", "_check 1"])
def test_fault_2_export_that_wakes_late_spoils_no_other_unnoticed(here, step):
    """Ahead of a call of a step of one export, another one is made in its place."""
    toy = here("a b c odd-1")
    toy.complete()
    toy.complete(retry=["odd"])
    name, call = step.split()
    original, calls = getattr(xrec.bulk.export, name), []

    def late(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == int(call) + 1:
            here.patch.setattr(xrec.bulk.export, name, original)
            target_of(here).delete()
            export(here, version=1)
        return original(*arguments)

    here.patch.setattr(xrec.bulk.export, name, late)
    with pytest.raises(ArtifactMismatchError, match="was changed meanwhile"):
        export(here, version=0)
    assert SUCCESS not in target_of(here).files()


# 3. A result cannot be read.


def spoil(toy: Toy, chunk: int, name: str = "{:07d}.parquet", *, footer: bool) -> None:
    """Change the bytes of a result, all or those of its rows."""
    file = toy.run.passes()[0].results.location / name.format(chunk)
    data = file.read_bytes()
    file.write_bytes(b"spoilt" if footer else data[:4] + bytes(60) + data[64:])


@pytest.mark.parametrize("footer", [True, False])
@pytest.mark.parametrize("retry", [[], ["odd"]])
def test_fault_3_broken_result_is_done_once_more_and_then_named(toys, footer, retry):
    toy = toys("a odd-1")
    toy.drive()
    spoil(toy, 1, footer=footer)
    manifest = toy.complete(pool := PoolHere())
    assert (pool.done, manifest.row_counts) == ([1], {"explanations": 12, "failed": 12})
    assert rows_of(toy.published()) == toy.rows
    if not retry:
        (toys.location / "_delta_log").delete()
    spoil(toy, 1, "{:07d}~1.parquet", footer=footer)
    for _ in range(2):
        with pytest.raises(DataError, match=r"neither 0000001\.parquet nor 0000001~1\.parquet"):
            toy.complete(pool := PoolHere(), retry=retry)
        assert len(pool.done) <= 1
    for name in ("0000001.parquet", "0000001~1.parquet"):  # what the message says
        (toy.run.passes()[0].results.location / name).delete()
    toy.complete()
    assert rows_of(toy.published()) == toy.rows


# 4. A check beside a healthy run.


def test_fault_4_check_beside_a_run_at_work_finds_no_error(toys):
    def work() -> None:
        for words in range(4):
            identity = IDENTITY.model_copy(update={"config": {"words": words}})
            toys("a odd-1", num_users=24, identity=identity).complete(retry=["odd"])

    thread = threading.Thread(target=work)
    thread.start()
    while not (toys.location / "_xrec" / "runs").exists():
        assert thread.is_alive()
    num_checks = 0
    while thread.is_alive() or num_checks < 30:
        assert errors_at(toys) == []
        num_checks += 1
    thread.join()


# 5. A process is killed within a local write.


def test_fault_5_leftovers_of_writes_that_were_killed_break_nothing(here):
    toy = here("a odd-1")
    toy.drive(max_rows=7)
    (here.location / "_delta_log" / "00000000000000000000.json#1").write_bytes(b"{")
    assert errors_at(here) == []
    toy.complete()
    for file in [path for path in Path(here.uri).rglob("*") if path.is_file()]:
        file.with_name(f".{file.name}.k2j8x").write_bytes(b"")
        file.with_name(f".{file.name}.k2j8y").write_bytes(b"PAR1 half of it")
    assert check_output(here.uri) == []
    assert read_status(here.uri).phase() == "published"
    toy.heal()
    here("a odd-1").complete(retry=["odd"])
    vacuum(here.uri, timedelta(hours=1))
    assert rows_of(toy.published(), "ok") == toy.rows
    export(here)
    assert rollback(here.uri, 0) > 1


# 6. An empty `_last_checkpoint`, and one that names a checkpoint that is not there.


@pytest.mark.parametrize("said", [b"", b'{"version":0,"size":3}', b'{"version":7,"size":3}'])
def test_fault_6_wrong_last_checkpoint_breaks_nothing(toys, said):
    toy = toys("a odd-1")
    toy.complete()
    hint = toys.location / "_delta_log" / "_last_checkpoint"
    hint.write_bytes(said)
    assert rows_of(toy.published()) == toy.rows
    assert check_output(toys.uri, toys.storage) == []
    toy.heal()
    assert toy.complete(retry=["odd"]).version == 1
    table_at(toys).create_checkpoint()
    hint.write_bytes(said)
    assert rows_of(toy.published(), "ok") == toy.rows
    assert toys("b", identity=OTHER).complete().version == 2
    assert rollback(toys.uri, 1, toys.storage) == 3


# 7. A late writer of entry 0.


@pytest.mark.parametrize("is_made_again", [True, False])
def test_fault_7_late_entry_0_of_another_run_is_undone(toys, is_made_again):
    """A publisher sleeps before its commit, and wakes after the output was deleted."""
    late, later = toys(), []
    late.drive()

    def deleted() -> None:
        toys.location.delete()
        later.append(toys("x", identity=OTHER))
        later[0].complete() if is_made_again else later[0].drive()

    with toys.patch.context() as patch:
        commit_once(patch, deleted, die_here)
        with pytest.raises(Killed):
            late.publish()
    (toy,) = later
    if is_made_again:
        assert rows_of(toy.published()) == toy.rows
    else:
        assert "lacks 1 of its files" in errors_at(toys)[0]
        with pytest.raises(StorageError):
            list(toy.published().batches(["user"]))
    toys("x", identity=OTHER).complete()
    assert rows_of(toy.published()) == toy.rows
    assert errors_at(toys) == []


# 8. A publisher that is woken late.


def test_fault_8_publisher_that_wakes_late_never_sets_readers_back(toys):
    toy = toys("a odd-1")
    toy.drive()

    def published_meanwhile() -> None:
        toy.heal()
        toy.complete(retry=["odd"])

    commit_once(toys.patch, published_meanwhile)
    assert toy.publish().row_counts == {"explanations": 24, "failed": 0}
    assert table_at(toys).version() == 0
    assert rows_of(toy.published(), "ok") == toy.rows


# 9. Commits of other programs.

OTHERS: dict[str, Callable[[deltalake.DeltaTable], Any]] = {
    "optimize": lambda table: table.optimize.compact(),
    "z-order": lambda table: table.optimize.z_order(["user"]),
    "vacuum": lambda table: table.vacuum(
        0, dry_run=False, enforce_retention_duration=False, full=True
    ),
    "delete": lambda table: table.delete("item = 'a'"),
    "restore": lambda table: table.restore(0),
    "checkpoint": lambda table: (
        table.alter.set_table_properties({"delta.appendOnly": "false"}),
        table.create_checkpoint(),
        table.cleanup_metadata(),
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_fault_9_commits_of_other_programs_make_nothing_unusable(toys, what):
    toys.in_parts(5000)
    first = toys("a", num_users=30, identity=OTHER)
    first.complete()
    toy = toys("a odd-1 dull-2", carry_from=toys.uri)
    toy.complete()
    OTHERS[what](table_at(toys))
    if what == "checkpoint" and not toys.uri.startswith("s3://"):
        for file in Path(toys.uri, "_delta_log").iterdir():
            os.utime(file, (1_700_000_000, 1_700_000_000))
        OTHERS[what](table_at(toys))  # deletes no old entries, for they say what is published
    left = {"delete": [row for row in toy.rows if row[1] != "a"], "restore": first.rows}
    assert rows_of(toy.published()) == left.get(what, toy.rows)
    assert errors_at(toys) == []
    toy.heal()
    with toys.patch.context() as patch:  # and one between a look at the table and the commit
        other = OTHERS["optimize" if what == "restore" else what]  # a restore is a rollback
        commit_once(patch, lambda: other(table_at(toys)))
        toys("a odd-1 dull-2").complete(retry=["odd"], republish=True)
    assert rows_of(toy.published()) == toy.rows
    assert errors_at(toys) == []
    carried = toys("a z", carry_from=toys.uri)
    carried.complete()
    assert rows_of(carried.published()) == carried.rows
    vacuum(toys.uri, timedelta(hours=1), toys.storage)


# Bad places.


@pytest.mark.parametrize("num_writes", [0, 1, 2, 5, 12, 13, 14])
def test_run_whose_writes_find_no_room_goes_on_once_there_is(here, num_writes):
    toy, sync, synced = here(), os.fsync, []

    def fill_up(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > num_writes:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with here.patch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(StorageError, match="No space left on device"):
            toy.complete()
    toy.complete()  # though there may have been no room to say that the driver ended
    assert rows_of(toy.published()) == toy.rows
    assert errors_at(here) == []


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_run_on_a_store_without_conditional_writes_is_refused(toys, refuses):
    """Some stores answer a write with a condition by 501, others write whatever it is."""
    if not refuses:
        toys.patch.setattr(S3Location, "create_bytes", lambda at, data: not at.write_bytes(data))
    refused = "If-None-Match" if refuses else None
    with faulty_proxy(toys.storage.endpoint_url, Faults(0.0, refused=refused)) as url:
        place = Place(toys.uri, toys.storage.model_copy(update={"endpoint_url": url}))
        with pytest.raises(TableError, match="no conditional writes"):
            open_run(toy_request(place, batches=lambda: 1 / 0))
