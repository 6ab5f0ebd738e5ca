"""Rows that kill their process are found, and all others are explained once.

A process "dies" by an exception that nothing catches.
"""

import random
from collections import Counter

import pyarrow as pa
import pytest
from xrec.backfill.attempts import Attempts, Outcome

from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location


class _Died(BaseException):
    """Stands for SIGKILL: the attempt's record stays."""


def _explained(rows: range) -> Outcome:
    row = {
        name: "" if field.type == pa.string() else 0
        for name, field in zip(GENERATED.names, GENERATED, strict=True)
    }
    return Outcome(
        pa.Table.from_pylist([{**row, "user_id": f"u{number}"} for number in rows], GENERATED),
        FAILED.empty_table(),
    )


class _Process:
    """Works on a chunk until a deadly row, and is then started again, as Ray does."""

    def __init__(self, output: Location, num_rows: int, deadly: set[int]):
        self.output, self.num_rows, self.deadly = output, num_rows, deadly
        self.seen: Counter[int] = Counter()
        self.condemned: dict[int, int] = {}
        self.deaths = 0

    def run(self) -> list[str]:
        """Return the rows that were explained, in order."""
        while True:
            try:
                parts = Attempts(self.output, 7, self.num_rows).explain(
                    self._explain, self._condemn
                )
            except _Died:
                self.deaths += 1
                continue
            return [user for part in parts for user in part.generated["user_id"].to_pylist()]

    def _explain(self, start: int, stop: int) -> Outcome:
        self.seen.update(range(start, stop))
        if self.deadly.intersection(range(start, stop)):
            self._die(start, stop)
        return _explained(range(start, stop))

    def _die(self, start: int, stop: int) -> None:
        raise _Died

    def _condemn(self, row: int, deaths: int) -> Outcome:
        self.condemned[row] = deaths
        return Outcome(GENERATED.empty_table(), FAILED.empty_table())


@pytest.fixture
def sudden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the records of attempts, because a process that died cannot delete its record."""
    delete = Location.delete
    monkeypatch.setattr(
        Location, "delete", lambda self: None if "/attempts/" in self.path else delete(self)
    )


@pytest.mark.usefixtures("sudden")
@pytest.mark.parametrize("turn", range(12))
def test_attempts_find_the_rows_that_kill_and_explain_each_other_row_once(
    output: Location, turn: int
) -> None:
    draw = random.Random(turn)
    num_rows = draw.choice([1, 2, 3, 8, 21])
    deadly = set(draw.sample(range(num_rows), draw.randint(0, min(3, num_rows))))
    process = _Process(output, num_rows, deadly)
    assert process.run() == [f"u{row}" for row in range(num_rows) if row not in deadly]
    assert process.condemned == dict.fromkeys(deadly, 2)
    assert process.deaths <= 2 + len(deadly) * (num_rows.bit_length() + 2)


@pytest.mark.usefixtures("sudden")
def test_attempts_one_lost_node_costs_one_repetition_of_the_chunk(output: Location) -> None:
    process = _Process(output, 8, {3})
    with pytest.raises(_Died):
        Attempts(output, 7, 8).explain(process._explain, process._condemn)
    process.deadly.clear()  # it was the node, not the row
    assert len(process.run()) == 8
    assert process.condemned == {}
    assert set(process.seen.values()) == {2}


def test_attempts_an_error_that_is_seen_is_no_death(output: Location) -> None:
    """An error of the store, for example: the process lives, so the attempt does not count."""
    for _ in range(5):
        with pytest.raises(OSError, match="store"):
            Attempts(output, 7, 4).explain(_fail, lambda row, deaths: _explained(range(0)))
    attempts = Attempts(output, 7, 4)
    assert attempts.num_deaths == 0
    (part,) = attempts.explain(
        lambda start, stop: _explained(range(start, stop)), lambda row, deaths: _explained(range(0))
    )
    assert part.generated.num_rows == 4


def _fail(start: int, stop: int) -> Outcome:
    raise OSError("the store does not answer")
