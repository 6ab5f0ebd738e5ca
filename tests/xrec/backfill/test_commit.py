"""Commit records: a chunk has one, that of the first attempt."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from xrec.backfill.commit import Commit, Work, committed_chunks, read_commits, try_commit

from xrec.errors import StorageNotFoundError
from xrec.storage import Location

WORK = Work(
    actor="host:1",
    started_at=0.0,
    seconds=1.5,
    num_prompt_tokens=30,
    num_generated_tokens=9,
    generated_lengths={0: 3},
    num_deaths=0,
)


def _commit(chunk: int, attempt: int = 0) -> Commit:
    files = {f"part-{chunk:05d}-{attempt}.parquet": f"{attempt:016x}"}
    return Commit(
        chunk=chunk,
        files=files,
        num_rows=3,
        num_failed=1,
        failed_by_reason={"unknown_user": 1},
        work=WORK,
    )


def test_commit_comes_back_as_it_was_made(output: Location) -> None:
    assert try_commit(output, _commit(7))
    assert Commit.read(output, 7) == _commit(7)


def test_second_attempt_at_a_chunk_loses_and_changes_nothing(output: Location) -> None:
    assert try_commit(output, _commit(7, attempt=1))
    assert not try_commit(output, _commit(7, attempt=2))
    assert Commit.read(output, 7) == _commit(7, attempt=1)


def test_attempts_at_the_same_time_have_one_winner_whose_record_stays(output: Location) -> None:
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda attempt: try_commit(output, _commit(3, attempt)), range(6)))
    assert won.count(True) == 1
    assert Commit.read(output, 3) == _commit(3, won.index(True))


def test_committed_chunks_are_those_with_a_record(output: Location) -> None:
    assert committed_chunks(output) == set()
    for chunk in (11, 2, 100_000):
        try_commit(output, _commit(chunk))
    assert committed_chunks(output) == {2, 11, 100_000}
    assert [commit.chunk for commit in read_commits(output, {100_000, 11, 2})] == [2, 11, 100_000]
    with pytest.raises(StorageNotFoundError, match="00005"):
        list(read_commits(output, [5]))
