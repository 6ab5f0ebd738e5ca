"""Who does which chunk, and which deaths are no row's fault. (Whole runs find rows that kill.)"""

from xrec.bulk.work.marks import WAIT, Attempt, Marks


def test_node_that_went_away_counts_for_nothing():
    lost: set[str] = set()
    marks = Marks(1, lambda: lost)
    lost.add("there")
    for number in range(200):
        marks.attempts(7, 64, f"w{number}")
        marks.begin(7, (0, 64), f"w{number}", "there")
    assert marks.attempts(7, 64, "last") == ([Attempt(0, 64)], 200)


def test_processes_that_end_before_they_are_ready_end_the_run():
    marks = Marks(2)

    def start(num_processes: int) -> list[bool]:
        return [marks.starting(f"w{n}", f"a{n}", "") for n in range(num_processes)]

    for _ in range(3):
        assert start(5) == [True] * 5
        marks.ready()
    assert start(7) == [True] * 6 + [False]
    assert "6 processes in a row ended before they were ready" in str(marks.news()[1])


def test_process_that_dies_with_many_chunks_is_one_death():
    marks, chunks = Marks(2), range(64)
    for number in chunks:
        marks.attempts(number, 32, f"w{number % 2}")
        marks.begin(number, (0, 32), f"w{number % 2}", "")
    again = [marks.attempts(number, 32, f"new{number % 2}") for number in chunks]
    assert [attempts for attempts, _ in again] == [[Attempt(0, 32, is_alone=True)]] * 64
    assert sum(num_deaths for _, num_deaths in again) == 2


def test_chunks_go_out_once_and_again_when_their_process_was_replaced_or_its_node_lost():
    lost: set[str] = set()
    marks = Marks(2, lambda: lost, numbers=range(3))
    marks.starting("w1", "actor 1", "node 1")
    marks.starting("w2", "actor 2", "node 2")
    assert [marks.next(name) for name in ("w1", "w2", "w1")] == [0, 1, 2]
    assert marks.begin(0, (0, 8), "w1", "node 1")
    assert marks.begin(1, (0, 8), "w2", "node 2")
    marks.done(1, "result of 1")
    assert marks.news() == ([(1, "result of 1")], None)
    assert marks.next("w2") == 2  # w1 is busy, and has only taken it
    assert not marks.begin(2, (0, 8), "w1", "node 1")
    assert marks.begin(2, (0, 8), "w2", "node 2")
    assert marks.next("w1") == WAIT  # w2 may die
    marks.starting("w3", "actor 1", "node 1")  # in place of w1
    assert marks.next("w3") == 0
    assert marks.attempts(0, 8, "w3")[0] == [Attempt(0, 8, is_alone=True)]
    marks.done(0)
    lost.add("node 2")
    assert marks.next("w3") == 2
    assert marks.attempts(2, 8, "w3") == ([Attempt(0, 8)], 1)  # no row is to blame
    marks.done(2)
    assert marks.next("w3") is None


def test_run_that_is_over_begins_no_chunk_and_ends_those_at_work():
    marks = Marks(1, numbers=range(9), slots=2)
    assert [marks.next("w") for _ in range(3)] == [0, 1, 2]
    assert marks.begin(0, (0, 8), "w", "")
    marks.is_over(True)
    assert marks.begin(0, (8, 16), "w", "")
    assert not marks.begin(2, (0, 8), "w", "")
    assert marks.next("w") is None
