"""Which deaths are no row's fault; that rows which kill are found is tested with whole runs."""

from xrec.bulk.work.marks import Attempt, Marks


def test_node_that_went_away_counts_for_nothing():
    lost: set[str] = set()
    marks = Marks(1, lambda: lost)
    lost.add("there")
    for number in range(200):
        marks.attempts(7, 64, f"w{number}")
        marks.begin(7, (0, 64), f"w{number}", "there")
    assert marks.attempts(7, 64, "last") == [Attempt(0, 64)]
    assert marks.done(7) == 200


def test_processes_that_end_before_they_are_ready_end_the_run():
    marks = Marks(2)
    for _ in range(3):
        assert [marks.starting() for _ in range(5)] == [None] * 5
        marks.ready()
    assert [marks.starting() for _ in range(6)] == [None] * 6
    assert "6 processes in a row ended before they were ready" in str(marks.starting())
