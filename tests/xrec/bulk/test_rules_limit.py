"""Rule 15 of xrec.bulk: a limit of rows."""

from pathlib import Path

import pytest

from tests.xrec.bulk.toy_run import Toy, rows_of, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import read_status
from xrec.bulk.run import committed_chunks
from xrec.errors import DataError


def chunk_sizes(toy: Toy) -> list[int]:
    """The numbers of rows of the chunks, in their order."""
    sizes = [chunk.num_rows for chunk in toy.run.plan.chunks()]
    assert len(sizes) > 3
    return sizes


def test_rule_15_limit_does_the_fewest_first_chunks_and_the_next_driver_goes_on(
    place: Place, tmp_path: Path
) -> None:
    toy = toy_run(place, tmp_path)
    sizes = chunk_sizes(toy)
    limited = toy.pool()
    state = toy.drive(limited, max_rows=sizes[0] + 1)
    assert (state.state, state.num_rows) == ("running", sizes[0] + sizes[1])
    assert [work.unit.num_rows for work in limited.done] == sizes[:2]
    assert limited.is_closed
    status = read_status(place.uri, place.storage)
    assert status.state == state
    assert not status.is_running()
    whole = toy.pool()
    state = toy.drive(whole)
    assert (state.state, state.num_rows) == ("finished", len(toy.rows))
    assert len(whole.done) == len(sizes) - 2
    assert rows_of(toy.snapshot()) == toy.rows


def test_rule_15_limit_on_the_edge_of_a_chunk_takes_no_further_one(
    disk: Place, tmp_path: Path
) -> None:
    toy = toy_run(disk, tmp_path)
    sizes = chunk_sizes(toy)
    assert toy.drive(max_rows=sum(sizes[:3])).num_rows == sum(sizes[:3])


def test_rule_15_limit_counts_rows_of_earlier_drivers(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path)
    sizes = chunk_sizes(toy)

    def interrupt(work: object) -> None:
        if pool.done[1:]:
            raise KeyboardInterrupt

    pool = toy.pool(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.drive(pool, max_rows=sum(sizes[:3]))
    assert list(committed_chunks(toy.snapshot())) == toy.run.plan.index["chunk"].to_pylist()[:1]
    rest = toy.pool()
    assert toy.drive(rest, max_rows=sum(sizes[:3])).num_rows == sum(sizes[:3])
    assert len(rest.done) == 2


def test_rule_15_limit_that_is_reached_changes_nothing(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path)
    state = toy.drive(max_rows=7)
    version = toy.run.table.newest_version()
    pool = toy.pool()
    assert toy.drive(pool, max_rows=7) == state
    assert toy.drive(toy.pool(), max_rows=state.num_rows) == state
    assert toy.run.table.newest_version() == version
    assert (pool.num_starts, pool.is_closed) == (0, True)


@pytest.mark.parametrize("beyond", [0, 1000])
def test_rule_15_limit_within_the_last_chunk_or_beyond_finishes_the_run(
    disk: Place, tmp_path: Path, beyond: int
) -> None:
    toy = toy_run(disk, tmp_path)
    limit = len(toy.rows) - chunk_sizes(toy)[-1] + 1 + beyond
    state = toy.drive(max_rows=limit)
    assert (state.state, state.num_rows) == ("finished", len(toy.rows))
    assert toy.drive(max_rows=1) == state


def test_rule_15_failed_share_is_of_the_rows_within_the_limit(disk: Place, tmp_path: Path) -> None:
    """One row of three fails; of all rows these are few, as long as most are not done."""
    toy = toy_run(disk, tmp_path, ["a", "b", "odd-1"])
    for _ in range(2):  # the second time nothing is done
        with pytest.raises(DataError, match=r"of \d+ rows failed \(odd \d+\), more than") as error:
            toy.drive(max_rows=7, max_failed_share=0.3)
    status = read_status(disk.uri)
    assert status.state is not None
    num_rows = status.state.num_rows
    assert num_rows < len(toy.rows)
    assert f"{status.state.num_failed} of {num_rows} rows failed" in str(error.value)
    assert f"{len(toy.rows) - num_rows} are left" in str(error.value)
    assert toy.drive(max_rows=7, max_failed_share=0.4).num_rows == num_rows
    assert toy.drive(max_failed_share=0.4).state == "finished"


@pytest.mark.parametrize("max_rows", [0, -1])
def test_rule_15_limit_below_one_is_an_error(disk: Place, tmp_path: Path, max_rows: int) -> None:
    toy = toy_run(disk, tmp_path)
    version = toy.run.table.newest_version()
    pool = toy.pool()
    with pytest.raises(ValueError, match=f"max_rows = {max_rows}: expected at least 1"):
        toy.drive(pool, max_rows=max_rows)
    assert pool.is_closed
    assert toy.run.table.newest_version() == version


def test_rule_15_retry_has_no_limit(disk: Place, tmp_path: Path) -> None:
    toy = toy_run(disk, tmp_path, ["a", "odd-1"])
    toy.drive()
    with pytest.raises(ValueError, match="a retry has no limit"):
        toy.drive(max_rows=5, retry=["odd"])
