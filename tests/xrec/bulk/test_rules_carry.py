"""Rule 14 of xrec.bulk: rows that an earlier run did already."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.object_store import requests_of
from tests.xrec.bulk.toy_run import FORMAT, IDENTITY, Toy, ToyTask, batch_of, die_here, rows_of
from tests.xrec.table.conftest import Place
from xrec.bulk import compact, drive, open_run, vacuum
from xrec.bulk import run as run_module
from xrec.bulk.work import Work
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.table.pins import pinned_versions


class ToyCarryingTask(ToyTask):
    """Finds rows of item `b` no longer good."""

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """See CarryingTask."""
        return pc.not_equal(earlier["item"], "b")


class ToyTrustingTask(ToyTask):
    """Finds all rows still good."""

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """See CarryingTask."""
        return pc.is_valid(earlier["item"])


def run_of(
    place: Place,
    name: str,
    items: list[str],
    *,
    carry_from: str | None = None,
    rows_per_chunk: int = 6,
    num_users: int = 12,
    listing: dict[str, list[str]] | None = None,
    **changes: Any,
) -> Toy:
    """A run below `place`, not driven yet."""
    rows = [(f"u-{number}", item) for number in range(num_users) for item in items]
    planned = open_run(
        f"{place.uri}/{name}",
        IDENTITY,
        replace(FORMAT, **changes),
        lambda: [batch_of(rows)],
        listing=listing or {},
        rows_per_chunk=rows_per_chunk,
        carry_from=carry_from and f"{place.uri}/{carry_from}",
        storage=place.storage,
    )
    return Toy(planned, sorted(rows), Path("/does/not/exist"))


def drive_carrying(toy: Toy, kind: type[ToyTask] = ToyCarryingTask, **settings: Any) -> Any:
    """Run to the end with a task that can carry."""
    task = kind(str(toy.healed), die_here)
    pool = toy.pool(**settings)
    pool.settings = toy.run.worker_settings(lambda: task)
    return drive(toy.run, pool, holder="test")


def texts_of(toy: Toy) -> dict[tuple[str, str], str]:
    """The text of each row that succeeded; each attempt makes another."""
    rows = toy.snapshot().dataset([("status", "=", "ok")]).to_table().to_pylist()
    return {(row["user"], row["item"]): row["text"] for row in rows}


def test_rule_14_good_rows_are_carried_and_the_others_done(place: Place) -> None:
    check_carry(place, 6, num_users=6)


@pytest.mark.parametrize("rows_per_chunk", [3, 100])
def test_rule_14_rows_are_carried_from_another_number_of_buckets(
    disk: Place, rows_per_chunk: int
) -> None:
    check_carry(disk, rows_per_chunk, num_users=12)


def check_carry(place: Place, rows_per_chunk: int, num_users: int) -> None:
    """See that rows are carried from a run of six rows a chunk to one of `rows_per_chunk`."""
    earlier = run_of(place, "earlier", ["a", "b", "odd-1"], num_users=num_users)
    earlier.drive()
    later = run_of(
        place,
        "later",
        ["a", "b", "c", "odd-1"],
        carry_from="earlier",
        rows_per_chunk=rows_per_chunk,
        num_users=num_users + 2,
    )
    state = drive_carrying(later)
    before, after = texts_of(earlier), texts_of(later)
    same = {key for key, text in after.items() if before.get(key) == text}
    assert same == {(user, item) for user, item in before if item == "a"}
    assert rows_of(later.snapshot()) == later.rows
    assert state.costs["carried"] == num_users
    assert (state.num_ok, state.failed) == (3 * (num_users + 2), {"odd": num_users + 2})


def contents(toy: Toy) -> dict[bytes, str]:
    """The content of each file of rows that succeeded, and its path."""
    paths = toy.snapshot().files([("status", "=", "ok")])["path"].to_pylist()
    return {(toy.run.table.location / path).read_bytes(): path for path in paths}


def test_rule_14_files_whose_rows_are_all_good_are_copied_by_the_store(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = run_of(place, "earlier", ["a", "b", "odd-1"], num_users=6)
    earlier.drive()
    later = run_of(place, "later", ["a", "b", "odd-1"], carry_from="earlier", num_users=6)
    requests = requests_of(monkeypatch)
    state = drive_carrying(later, ToyTrustingTask)
    before, after = contents(earlier), contents(later)
    assert set(before) == set(after)
    assert set(before.values()).isdisjoint(after.values())  # each run has names of its own
    is_s3 = place.uri.startswith("s3://")
    assert requests.count("copy_object") == (len(after) if is_s3 else 0)
    assert rows_of(later.snapshot()) == later.rows
    assert (state.costs["carried"], state.num_ok, state.failed) == (12, 12, {"odd": 6})
    earlier.run.table.location.delete()
    assert texts_of(later).keys() == {row for row in later.rows if row[1] != "odd-1"}


def test_rule_14_file_with_a_row_that_is_not_planned_or_not_good_is_not_copied(
    disk: Place,
) -> None:
    earlier = run_of(disk, "earlier", ["a", "c"])
    earlier.drive()
    fewer = run_of(disk, "fewer", ["a", "c"], carry_from="earlier", num_users=11)
    assert fewer.run.plan.record.num_buckets == earlier.run.plan.record.num_buckets
    state = drive_carrying(fewer)
    assert len(contents(earlier).keys() - contents(fewer).keys()) == 1  # the file of `u-11`
    assert (state.costs["carried"], rows_of(fewer.snapshot())) == (22, fewer.rows)
    other = run_of(disk, "other", ["a", "b"])
    other.drive()
    not_good = run_of(disk, "not-good", ["a", "b"], carry_from="other")
    state = drive_carrying(not_good)  # finds item `b` no longer good
    assert contents(other).keys().isdisjoint(contents(not_good))
    assert (state.costs["carried"], rows_of(not_good.snapshot())) == (12, not_good.rows)


def test_rule_14_files_of_another_number_of_buckets_or_other_columns_are_not_copied(
    disk: Place,
) -> None:
    earlier = run_of(disk, "earlier", ["a"], rows_per_chunk=1)
    earlier.drive()
    fewer_buckets = run_of(disk, "later", ["a"], carry_from="earlier", rows_per_chunk=100)
    more_columns = run_of(
        disk,
        "more",
        ["a"],
        carry_from="earlier",
        rows_per_chunk=1,
        failed=pa.schema([("hint", pa.string()), ("more", pa.string())]),
    )
    for later in (fewer_buckets, more_columns):
        state = drive_carrying(later, ToyTrustingTask)
        assert contents(earlier).keys().isdisjoint(contents(later))
        assert (state.costs["carried"], rows_of(later.snapshot())) == (12, later.rows)
    column = fewer_buckets.snapshot().dataset().to_table()["bucket"]
    assert set(column.to_pylist()) == {0}


def test_rule_14_rows_of_a_chunk_that_is_divided_after_a_death_are_carried_by_rows(
    disk: Place,
) -> None:
    run_of(disk, "earlier", ["a", "b"]).drive()
    later = run_of(disk, "later", ["a", "b"], carry_from="earlier")
    deaths: list[Work] = []

    def die_twice(work: Work) -> None:
        if work.is_whole and len(deaths) < 2:
            deaths.append(work)
            die_here()

    state = drive_carrying(later, ToyTrustingTask, before=die_twice, num_slots=1)
    assert deaths[0] == replace(deaths[1], is_alone=False)
    assert (state.costs["carried"], rows_of(later.snapshot())) == (24, later.rows)


@pytest.mark.parametrize("task", [ToyCarryingTask, ToyTrustingTask])
def test_rule_14_what_happens_to_the_earlier_run_changes_nothing(
    disk: Place, monkeypatch: pytest.MonkeyPatch, task: type[ToyTask]
) -> None:
    earlier = run_of(disk, "earlier", ["a", "odd-1"])
    earlier.drive()
    before = texts_of(earlier)
    later = run_of(disk, "later", ["a", "odd-1"], carry_from="earlier")
    monkeypatch.setattr("xrec.table.vacuum.YOUNG", timedelta(0))
    monkeypatch.setattr("xrec.table.writer.timedelta", lambda **units: timedelta(0))
    compact(earlier.run, holder="upkeep")
    vacuum(earlier.run, holder="upkeep", retention=timedelta(0), log_retention=timedelta(0))
    assert run_of(disk, "later", ["a", "odd-1"], carry_from="earlier").run.plan.record == (
        later.run.plan.record
    )
    assert pinned_versions(earlier.run.table.location) != []
    for path in earlier.snapshot().files()["path"].to_pylist():
        assert "/compact-" in path
        (earlier.run.table.location / path).delete()  # later than what is pinned
    drive_carrying(later, task)
    assert {key for key, text in texts_of(later).items() if before[key] == text} == set(before)
    assert pinned_versions(earlier.run.table.location) == []  # free again


def test_rule_14_planned_run_needs_the_earlier_one_no_more(disk: Place) -> None:
    """Its input's files are others, and have the same rows."""
    earlier = run_of(disk, "earlier", ["a"])
    earlier.drive()
    later = run_of(disk, "later", ["a"], carry_from="earlier")
    drive_carrying(later)
    earlier.run.plan.output.delete()
    touched = run_of(disk, "later", ["a"], carry_from="earlier", listing={"rows": ["1", "3"]})
    assert touched.run.plan.record == later.run.plan.record


def test_rule_14_driver_that_fails_to_plan_leaves_no_pin(
    disk: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = run_of(disk, "earlier", ["a"])
    earlier.drive()
    monkeypatch.setattr(run_module, "make_plan", lambda *arguments, **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_of(disk, "later", ["a"], carry_from="earlier")
    assert pinned_versions(earlier.run.table.location) == []


def test_rule_14_earlier_run_that_cannot_be_carried_from_is_refused(disk: Place) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no run was planned there"):
        run_of(disk, "later", ["a"], carry_from="earlier")
    earlier = run_of(disk, "earlier", ["a"])
    with pytest.raises(ArtifactNotFoundError, match="the run is not finished"):
        run_of(disk, "later", ["a"], carry_from="earlier")
    earlier.drive()
    with pytest.raises(ArtifactMismatchError, match="num_tokens: int32 there, int64 here"):
        run_of(
            disk,
            "other",
            ["a"],
            carry_from="earlier",
            ok=pa.schema([("text", pa.string()), ("num_tokens", pa.int64())]),
        )
    run_of(disk, "later", ["a"], carry_from="earlier")
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.carry_from: .* there, nothing here"):
        run_of(disk, "later", ["a"])


def test_rule_14_task_that_cannot_carry_is_an_error(disk: Place) -> None:
    run_of(disk, "earlier", ["a"]).drive()
    later = run_of(disk, "later", ["a"], carry_from="earlier")
    with pytest.raises(ValueError, match="ToyTask: expected a CarryingTask"):
        later.drive()
