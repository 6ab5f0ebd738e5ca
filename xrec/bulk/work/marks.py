"""Marks tell which rows killed their process: workers say what they begin and end.

Ray does a lost task again without a word. Whoever begins what another process had begun, and not
ended, knows that the process died with these rows. A whole chunk is tried twice, because a machine
may be lost through no fault of a row; the second time in a process that does nothing else. Then it
is cut into 16 parts, each part that kills into 16 again, until one row is left. A row that kills
twice is a failed row. What is done of a chunk that was cut outlives the next death. A node that
went away counts for nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from xrec.bulk.runs.row_format import Outcome

_PARTS = 16
_MOST_DEATHS_IN_A_ROW = 64
"""Some rows of one chunk, each of which kills, are found within so many deaths. More, without
anything that was done in between, are no row's fault: each process dies."""
_STARTS_PER_ACTOR = 3

Range = tuple[int, int]
"""Rows `start` to `stop` of a chunk."""


@dataclass(frozen=True)
class Attempt:
    """What is to be tried next of a chunk.

    is_alone: the process must do nothing else meanwhile. num_deaths: if it is not 0, the rows are
    not done but written as failed, because so many processes died with them. kept: what an earlier
    process did of them.
    """

    start: int
    stop: int
    is_alone: bool = False
    num_deaths: int = 0
    kept: Outcome | None = None


@dataclass
class _Chunk:
    """What is known of a chunk at work."""

    begun: dict[Range, tuple[str, str]] = field(default_factory=dict)
    deaths: dict[Range, int] = field(default_factory=dict)
    kept: dict[Range, Outcome] = field(default_factory=dict)
    num_deaths: int = 0


class Marks:
    """What the processes of a run have begun; one for a driver.

    lost_nodes: the nodes that went away. max_actors: how many processes there are at most.
    """

    def __init__(self, max_actors: int, lost_nodes: Callable[[], set[str]] = set):
        self._lost_nodes = lost_nodes
        self._chunks: dict[int, _Chunk] = {}
        self._num_deaths_in_a_row = 0
        self._num_starts_in_a_row = 0
        self._most_starts = _STARTS_PER_ACTOR * max_actors
        self._is_over = False

    def is_over(self, stop: bool = False) -> bool:
        """Whether no chunk is to be begun any more, which `stop` decides."""
        self._is_over |= stop
        return self._is_over

    def starting(self) -> str | None:
        """A process begins to load; returns why it must not, or None."""
        self._num_starts_in_a_row += 1
        if self._num_starts_in_a_row <= self._most_starts:
            return None
        return (
            f"{self._most_starts} processes in a row ended before they were ready, which is often "
            "for lack of memory; give each more memory, or start fewer"
        )

    def ready(self) -> None:
        self._num_starts_in_a_row = 0

    def attempts(self, number: int, num_rows: int, worker: str) -> tuple[list[Attempt], int] | str:
        """What is to be done of a chunk by `worker`, in order, or why the run must end.

        With it goes how many processes died with the chunk. Whatever another worker had begun of it
        counts as a death.
        """
        chunk = self._chunks.setdefault(number, _Chunk())
        for rows, (other, node) in list(chunk.begun.items()):
            if other != worker:
                del chunk.begun[rows]
                self._count(chunk, rows, node)
        if self._num_deaths_in_a_row >= _MOST_DEATHS_IN_A_ROW:
            return (
                f"{self._num_deaths_in_a_row} processes died one after the other and nothing was "
                f"done in between, the last time with chunk {number}, so no row can be to blame; "
                "look at the logs of Ray's workers, correct the cause and run the job again"
            )
        return list(_attempts(chunk, 0, num_rows, is_whole=True)), chunk.num_deaths

    def begin(self, number: int, rows: Range, worker: str, node: str) -> None:
        self._chunks.setdefault(number, _Chunk()).begun[rows] = (worker, node)

    def end(self, number: int, rows: Range, kept: Outcome) -> None:
        """These rows of a chunk are done; what is `kept` outlives the process until all are."""
        chunk = self._chunks.setdefault(number, _Chunk())
        self._alive(chunk, rows)
        del chunk.begun[rows]
        chunk.kept[rows] = kept

    def done(self, number: int) -> None:
        chunk = self._chunks.pop(number, _Chunk())
        for rows in chunk.begun:
            self._alive(chunk, rows)

    def _alive(self, chunk: _Chunk, rows: Range) -> None:
        if chunk.deaths.get(rows, 0) < 2:  # else they were not done but given up
            self._num_deaths_in_a_row = 0

    def _count(self, chunk: _Chunk, rows: Range, node: str) -> None:
        chunk.num_deaths += 1
        if node not in self._lost_nodes():
            self._num_deaths_in_a_row += 1
            chunk.deaths[rows] = chunk.deaths.get(rows, 0) + 1


def _attempts(chunk: _Chunk, start: int, stop: int, *, is_whole: bool) -> Iterator[Attempt]:
    rows = (start, stop)
    num_deaths = chunk.deaths.get(rows, 0)
    if rows in chunk.kept:
        yield Attempt(start, stop, kept=chunk.kept[rows])
    elif num_deaths < (2 if is_whole or stop - start == 1 else 1):
        yield Attempt(start, stop, is_alone=not is_whole or num_deaths > 0)
    elif stop - start == 1:
        yield Attempt(start, stop, num_deaths=num_deaths)
    else:
        size = -(-(stop - start) // _PARTS)
        for first in range(start, stop, size):
            yield from _attempts(chunk, first, min(first + size, stop), is_whole=False)
