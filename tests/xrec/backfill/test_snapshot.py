"""A driver's log reads each commit from the store once, also if the store fails in between."""

from collections import Counter
from pathlib import Path

import pytest
from xrec.backfill.commit import Commit, Work, try_commit
from xrec.backfill.generation import RUN, begin_generation
from xrec.backfill.snapshot import RecordLog, read_records

from xrec.errors import StorageError, StorageUnreachableError
from xrec.storage import Location, open_location

WORK = Work(
    actor="a",
    started_at=0.0,
    seconds=1.0,
    num_prompt_tokens=1,
    num_generated_tokens=1,
    generated_lengths={0: 1},
    num_deaths=0,
)


def _commit(chunk: int) -> Commit:
    return Commit(
        chunk=chunk,
        files={f"part-{chunk}.parquet": "hash"},
        num_rows=1,
        num_failed=0,
        failed_by_reason={},
        work=WORK,
    )


@pytest.fixture
def output(tmp_path: Path) -> Location:
    """An output with chunks 0 to 3 of a run, and chunk 2 again in a retry."""
    output = open_location(str(tmp_path))
    retry = begin_generation(output, "retry")
    for generation, chunk in [(RUN, 0), (RUN, 1), (RUN, 2), (RUN, 3), (retry, 2)]:
        assert try_commit(generation.root(output), _commit(chunk))
    return output


@pytest.fixture
def reads(output: Location, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often each record was read."""
    counter: Counter[str] = Counter()
    read_bytes = type(output).read_bytes

    def counted(location: Location) -> bytes:
        if "/commits/" in location.path:
            counter[location.path] += 1
        return read_bytes(location)

    monkeypatch.setattr(type(output), "read_bytes", counted)
    return counter


def test_log_reads_each_commit_once_and_those_it_was_told_of_never(
    output: Location, reads: Counter[str]
) -> None:
    log = RecordLog(output)
    log.add(RUN, _commit(3))
    log.read_ahead()
    first = log.read()
    assert try_commit(output, _commit(4))
    second = log.read()
    assert set(reads.values()) == {1}
    assert len(reads) == 3 + 1 + 1
    assert [commit.chunk for commit in first[0].commits] == [0, 1, 2, 3]
    assert second == read_records(output)


def test_log_asks_again_for_what_the_store_refused_in_the_background(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, log = read_records(output), RecordLog(output)

    def refused(location: Location) -> bytes:
        raise StorageUnreachableError(str(location))

    with monkeypatch.context() as patched:
        patched.setattr(type(output), "read_bytes", refused)
        log.read_ahead()
        with pytest.raises(StorageError, match="generation"):
            log.read()
    assert log.read() == expected
