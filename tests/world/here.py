"""Actors and Ray tasks in the test's own process, and places on a disk and in an object store.

Tests about rows, not actors, need no processes that import torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xrec import bulk
from xrec.config import StorageConfig
from xrec.processes import Marks
from xrec.storage import Location, open_location


@dataclass(frozen=True)
class Place:
    """A URI, and the settings to open it."""

    uri: str
    storage: StorageConfig

    @property
    def location(self) -> Location:
        return open_location(self.uri, self.storage)


class Killed(BaseException):
    """Ends a process of PoolHere."""


@dataclass
class PoolHere:
    """A pool whose processes are all the test's own; it does one chunk at a time.

    A process that dies, by `Killed`, is followed by another, as in Ray.

    Attributes:
        before: Called with each chunk before it starts.
        order: Changes the order of the chunks.
        done: The chunks that were started.
    """

    before: Callable[[int], object] = lambda chunk: None
    order: Callable[[Sequence[int]], Sequence[int]] = list
    done: list[int] = field(default_factory=list)
    num_starts: int = 0

    def run(
        self,
        make: Callable[..., Callable[[int], object]],
        numbers: Sequence[int],
        is_over: Callable[[], bool] = lambda: False,
        num_threads: int = 1,
    ) -> Iterator[tuple[int, Any]]:
        marks = Marks(1, numbers)
        do = self._start(make, marks)
        for number in self.order(numbers):
            while True:
                self.done.append(number)
                self.before(number)
                try:
                    do(number)
                    break
                except Killed:
                    do = self._start(make, marks)
            done, _ = marks.news()
            yield from done
            if marks.is_over(is_over()):
                return

    def held(self, num_chunks: int) -> dict[str, float]:
        """Return two CPU hours and one GPU hour for each chunk."""
        return {"cpu_hours": 2.0 * num_chunks, "gpu_hours": float(num_chunks)}

    def _start(
        self, make: Callable[..., Callable[[int], object]], marks: Marks
    ) -> Callable[[int], object]:
        self.num_starts += 1
        return make(marks, "", f"process {self.num_starts}")


def pool_here(*settings: Any, **more: Any) -> PoolHere:
    return PoolHere()


@dataclass(frozen=True)
class TaskOf:
    """Does rows with a function, whose errors end the run."""

    do: Callable[[pa.Table], bulk.Outcome]
    row_errors: tuple[type[Exception], ...] = ()

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        raise NotImplementedError


def plan_of(
    uri: str,
    kind: str,
    format: bulk.RowFormat,
    rows: pa.Table,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    **settings: Any,
) -> bulk.BulkRun:
    """Plan a bulk run of these rows; `settings` are of its request."""
    batches = [bulk.clean_keys(rows, format.keys, file="rows", first_line=1, given=format.given)]
    identity = bulk.Identity(kind=kind, config=dict(config or {}), inputs=dict(inputs or {}))
    return bulk.open_run(bulk.RunRequest(uri, identity, format, lambda: batches, **settings))


def map_here(
    make: Callable[[], Callable[[Any], Any]], items: Sequence[Any], **resources: Any
) -> Iterator[tuple[int, Any]]:
    """Map as `xrec.processes.map_in_processes` does, in this process, the last item first.

    What would be sent between processes is pickled here too.
    """
    work = _sent(make)()
    return reversed(list(enumerate(_sent(work(_sent(item))) for item in items)))


def _sent(value: Any) -> Any:
    from ray import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(value))
