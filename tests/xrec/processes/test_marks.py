"""Which process gets which chunk, and which deaths count."""

from xrec.processes import WAIT, Attempt, Marks


def test_lost_nodes_do_not_count_as_deaths():
    marks = Marks(1)
    marks.lost_nodes = {"there"}
    for number in range(200):
        marks.attempts(7, 64, f"w{number}")
        marks.begin(7, (0, 64), f"w{number}", "there")
    assert marks.attempts(7, 64, "last") == ([Attempt(0, 64)], 200)


def test_process_that_dies_with_many_chunks_is_one_death():
    marks, chunks = Marks(2), range(64)
    for number in chunks:
        marks.attempts(number, 32, f"w{number % 2}")
        marks.begin(number, (0, 32), f"w{number % 2}", "")
    again = [marks.attempts(number, 32, f"new{number % 2}") for number in chunks]
    assert [attempts for attempts, _ in again] == [[Attempt(0, 32, is_alone=True)]] * 64
    assert sum(num_deaths for _, num_deaths in again) == 2


def test_chunk_is_handed_out_again_when_its_process_was_replaced_or_its_node_lost():
    marks = Marks(2, range(3))
    marks.starting("w1", "actor 1", "node 1")
    marks.starting("w2", "actor 2", "node 2")
    assert [marks.next(name) for name in ("w1", "w2", "w1")] == [0, 1, 2]
    marks.begin(0, (0, 8), "w1", "node 1")
    marks.begin(1, (0, 8), "w2", "node 2")
    marks.done(1, "result of 1")
    assert marks.news() == ([(1, "result of 1")], None)
    assert marks.next("w2") == WAIT  # w1 may die
    marks.starting("w3", "actor 1", "node 1")  # in place of w1
    assert [marks.next(name) for name in ("w2", "w3")] == [2, 0]
    marks.begin(2, (0, 8), "w2", "node 2")
    assert marks.attempts(0, 8, "w3")[0] == [Attempt(0, 8, is_alone=True)]
    marks.done(0)
    marks.lost_nodes = {"node 2"}
    assert marks.next("w3") == 2
    assert marks.attempts(2, 8, "w3") == ([Attempt(0, 8)], 1)  # no row is to blame
    marks.done(2)
    assert marks.next("w3") is None


def test_last_chunks_are_left_for_processes_that_are_still_loading():
    marks = Marks(2, range(5))
    marks.starting("w1", "actor 1", "node")
    marks.starting("w2", "actor 2", "node")
    assert [marks.next("w1") for _ in range(4)] == [0, 1, 2, WAIT]
    assert [marks.next("w2") for _ in range(2)] == [3, 4]
    marks.done(0)
    marks.done(3)
    assert marks.next("w1") == WAIT  # w2 may die


def test_processes_that_die_before_they_are_ready_end_the_run():
    marks = Marks(1, range(3))
    goes_on = [marks.starting(f"w{number}", "actor", "node") for number in range(4)]
    assert (goes_on, marks.is_over()) == ([True, True, True, False], True)
    _, error = marks.news()
    assert error.code == "processes_not_ready"
