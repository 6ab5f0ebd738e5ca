"""The marks of a pool: which chunks are left, who works on them, and which rows killed a process.

A chunk is a numbered piece of work; its rows are the parts that can be done one by one. Ray
silently retries lost tasks, so chunks are not tasks: workers take chunks from the marks and
report what they start and finish, and the driver collects what is done. A replacement process or a
lost node shows that a worker died; the worker's chunks are handed out again.

A chunk that was in progress when its process died is tried once more as a whole, because a process
can die through no fault of a row; the second process does nothing else at the time. Then the chunk
is divided into 16 parts, and each part that kills a process into 16 again, until one row is left. A
row that kills two processes becomes a failed row. Finished parts of a chunk are kept when a process
dies. No row is blamed for a lost node.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xrec.errors import ClusterError, XRecError

_PARTS = 16
_MOST_DEATHS_IN_A_ROW = 64
"""Finding several deadly rows of a chunk takes fewer deaths. If this many processes die with
nothing done in between, no row is to blame: every process dies."""
_STARTS_PER_ACTOR = 3
_MOST_NEWS = 1024
"""No chunk starts while the driver has more results than this to collect."""

Range = tuple[int, int]
"""Rows `start` to `stop` of a chunk."""

WAIT = -1
"""What `Marks.next` returns to a worker that should ask again in a second."""


@dataclass(frozen=True)
class Attempt:
    """The rows of a chunk to try next.

    is_alone: the process must do nothing else at the time. num_deaths: if not 0, fail the rows,
    because this many processes died on them. kept: the outcome, if an earlier process finished
    these rows.
    """

    start: int
    stop: int
    is_alone: bool = False
    num_deaths: int = 0
    kept: Any = None


@dataclass
class _Chunk:
    """The state of an unfinished chunk, which `worker` has taken."""

    worker: str = ""
    started: dict[Range, tuple[str, str]] = field(default_factory=dict)
    deaths: dict[Range, int] = field(default_factory=dict)
    kept: dict[Range, Any] = field(default_factory=dict)
    num_deaths: int = 0


class Marks:
    """The marks of one pool of workers.

    max_actors: the maximum number of processes. numbers: the chunks to do, in order. lost_nodes:
    the IDs of lost nodes, for the owner to set.
    """

    def __init__(self, max_actors: int, numbers: Iterable[int] = ()):
        self.lost_nodes: set[str] = set()
        self._queue = deque(numbers)
        self._left = set(self._queue)
        self._chunks: dict[int, _Chunk] = {}
        self._processes: dict[str, tuple[str, str]] = {}  # worker and node of each actor
        self._dead: set[str] = set()
        self._num_deaths_in_a_row = 0
        self._num_starts_in_a_row = 0
        self._most_starts = _STARTS_PER_ACTOR * max_actors
        self._is_over = False
        self._news: list[tuple[int, Any]] = []
        self._error: XRecError | None = None

    # For the driver.

    def is_over(self, stop: bool = False) -> bool:
        """Return whether no further chunk may start; `stop` makes this true."""
        self._is_over |= stop
        return self._is_over

    def has_news(self) -> bool:
        return bool(self._news) or self._error is not None

    def news(self) -> tuple[list[tuple[int, Any]], XRecError | None]:
        """Return the chunks finished since the last call with their results, and any error."""
        news, self._news = self._news, []
        return news, self._error

    # For workers.

    def starting(self, worker: str, actor: str, node: str) -> bool:
        """Record that a process is loading; return whether it should continue.

        actor: stays the same if a process replaces one that died.
        """
        before, _ = self._processes.get(actor, ("", ""))
        self._lose(before)
        self._processes[actor] = (worker, node)
        self._num_starts_in_a_row += 1
        if self._num_starts_in_a_row > self._most_starts:
            self.fail(
                ClusterError(
                    f"{self._most_starts} processes in a row died before they were ready, often "
                    "for lack of memory; give each process more memory, or start fewer",
                    code="processes_not_ready",
                    saw=self._most_starts,
                )
            )
        return self._error is None

    def ready(self) -> None:
        self._num_starts_in_a_row = 0

    def fail(self, error: XRecError) -> None:
        """End the run with this error, unless it has already failed with another."""
        self._error = self._error or error
        self._is_over = True

    def next(self, worker: str) -> int | None:
        """Return the chunk that `worker` should do next, `WAIT`, or None if there is none.

        A worker waits while others are at work, because they may die; while it has its share of the
        chunks left, because others may still be loading; and while the driver has many results to
        collect.
        """
        if self._is_over or not self._left:
            return None
        num_processes = sum(node not in self.lost_nodes for _, node in self._processes.values())
        share = -(-len(self._left) // max(1, num_processes))
        num_taken = sum(chunk.worker == worker for chunk in self._chunks.values())
        if len(self._news) >= _MOST_NEWS or num_taken >= share:
            return WAIT
        if not self._queue:
            for other, node in self._processes.values():
                if node in self.lost_nodes:
                    self._lose(other)
        if not self._queue:
            return WAIT
        number = self._queue.popleft()
        self._chunk(number).worker = worker
        return number

    def attempts(self, number: int, num_rows: int, worker: str) -> tuple[list[Attempt], int] | str:
        """Return the attempts at a chunk for `worker`, in order, and how many processes died on it.

        Return a message if the run must end. Rows that another worker had started count as a death.
        """
        chunk = self._chunk(number)
        chunk.worker = worker
        for rows, (other, node) in list(chunk.started.items()):
            if other != worker:
                del chunk.started[rows]
                self._count(chunk, rows, other, node)
        if self._num_deaths_in_a_row >= _MOST_DEATHS_IN_A_ROW:
            return (
                f"{self._num_deaths_in_a_row} processes died in a row with nothing done in "
                f"between, the last one on chunk {number}, so no single row is to blame; look at "
                "the logs of Ray's workers, fix the cause and run the job again"
            )
        return list(_attempts(chunk, 0, num_rows, is_whole=True)), chunk.num_deaths

    def begin(self, number: int, rows: Range, worker: str, node: str) -> None:
        """Record that a worker starts rows of a chunk."""
        self._chunk(number).started[rows] = (worker, node)

    def end(self, number: int, rows: Range, kept: Any) -> None:
        """Record that rows of a chunk are done, and keep their outcome until the chunk is done."""
        chunk = self._chunk(number)
        self._alive(chunk, rows)
        chunk.started.pop(rows, None)
        chunk.kept[rows] = kept

    def done(self, number: int, result: Any = None) -> None:
        """Record that a chunk is done, for the driver to collect."""
        chunk = self._chunks.pop(number, _Chunk())
        for rows in chunk.started:
            self._alive(chunk, rows)
        if number in self._left:
            self._left.remove(number)
            self._news.append((number, result))

    def _chunk(self, number: int) -> _Chunk:
        return self._chunks.setdefault(number, _Chunk())

    def _lose(self, worker: str) -> None:
        """Put the chunks of a dead worker back at the front of the queue."""
        for number, chunk in self._chunks.items():
            if worker and chunk.worker == worker:
                chunk.worker = ""
                self._queue.appendleft(number)

    def _alive(self, chunk: _Chunk, rows: Range) -> None:
        if chunk.deaths.get(rows, 0) < 2:  # otherwise the rows were given up on, not done
            self._num_deaths_in_a_row = 0

    def _count(self, chunk: _Chunk, rows: Range, worker: str, node: str) -> None:
        """Count a death against the rows, and once per process against the chunk and the run."""
        is_new = worker not in self._dead
        self._dead.add(worker)
        chunk.num_deaths += is_new
        if node not in self.lost_nodes:
            chunk.deaths[rows] = chunk.deaths.get(rows, 0) + 1
            self._num_deaths_in_a_row += is_new


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
