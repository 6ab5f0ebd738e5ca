"""The benchmarks of bulk runs: rows are counted from each contestant's own output."""

from benchmarks import bulk_memory
from benchmarks.bulk import table_of
from benchmarks.bulk_contestants import TextTask, planned
from benchmarks.bulk_work import Work, make_pairs
from tests.world.here import PoolHere
from xrec.bulk import complete, published


def test_ours_has_each_pair_once_and_a_line_of_the_diary_for_each_chunk(tmp_path):
    make_pairs(tmp_path / "pairs", 400)
    work = Work(*(str(tmp_path / name) for name in ("pairs", "out", "diary")), 50, 0.0)
    run = planned(work)
    complete(run, PoolHere(), lambda: TextTask(work), "explanations", lambda summary: ({}, {}))
    found = table_of(work.output)
    assert (found["rows"], found["distinct"], found["files"]) == (400, 400, 1)
    assert found["bytes_a_row"] > 50
    assert len(work.times()) == run.record.size.num_chunks == 8


def test_steps_of_the_memory_benchmark_plan_publish_and_carry_all_rows(tmp_path):
    for step in ("plan", "results", "publish", "carry"):
        bulk_memory.STEPS[step](str(tmp_path / "explanations"), 300)
    assert published(str(tmp_path / "explanations")).dataset().count_rows() == 300
