"""The benchmarks of bulk runs: rows are counted from each contestant's own output."""

from benchmarks.bulk import table_of
from benchmarks.bulk_contestants import TextTask, planned
from benchmarks.bulk_work import Work, make_pairs
from tests.world.here import PoolHere
from xrec.bulk import complete


def test_ours_has_each_pair_once_and_a_line_of_the_diary_for_each_chunk(tmp_path):
    make_pairs(tmp_path / "pairs", 400)
    work = Work(*(str(tmp_path / name) for name in ("pairs", "out", "diary")), 50, 0.0)
    run = planned(work)
    complete(run, PoolHere(), lambda: TextTask(work), "explanations", lambda summary: ({}, {}))
    found = table_of(work.output)
    assert (found["rows"], found["distinct"], found["files"]) == (400, 400, 1)
    assert found["bytes_a_row"] > 50
    assert len(work.times()) == run.record.size.num_chunks == 8
