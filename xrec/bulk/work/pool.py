"""Processes of Ray Data's actor pool, which do numbered pieces of work.

Each process loads what it needs once. Then it takes numbers from the marks, an actor beside the
driver, and reports results and errors there, so nothing but the marks passes between the processes
and the driver. Ray Data starts the processes, grows the pool, and replaces those that die. It runs
in another actor beside the driver: once that one is killed, all processes end, whatever happened.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock
from typing import Any, Protocol, TypeVar

import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xrec.bulk.runs.result import Summary
from xrec.bulk.work.marks import WAIT, Marks
from xrec.bulk.work.ray_actors import RayWatch, portable, unpack
from xrec.bulk.work.worker import ChunkWorker, WorkerSettings
from xrec.errors import ClusterError, XRecError

T = TypeVar("T")
R = TypeVar("R")

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_END = 10.0


class Pool(Protocol):
    """What does the chunks of a pass."""

    def summaries(
        self, settings: WorkerSettings, chunks: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Summary]]:
        """Yield each chunk that is done, with the summary of its result, in any order.

        is_over: called after each chunk and about once a second. Once it returns True, no further
        chunk begins, and those that have begun are waited for. What it raises ends the pool.

        Raises the XRecError that a process raised, or ClusterError.
        """
        ...

    def held(self, num_chunks: int) -> dict[str, float]:
        """Return the CPUs and GPUs that it holds for this many chunks, as the costs of an hour."""
        ...


@dataclass(frozen=True)
class RayPool:
    """`max_actors` processes, or fewer as long as the cluster has no room for all.

    min_actors: if less than `max_actors`, the pool grows while all are busy, and shrinks. cpus,
    gpus: of each process. Ray must be initialised.
    """

    max_actors: int
    min_actors: int | None = None
    cpus: float = 1
    gpus: float = 0

    def summaries(
        self, settings: WorkerSettings, chunks: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Summary]]:
        processes = _Processes(
            make=partial(_ChunksOf, settings),
            max_size=min(self.max_actors, len(chunks)),
            min_size=self.min_actors,
            cpus=self.cpus,
            gpus=self.gpus,
            slots=settings.chunks_at_once,
            num_threads=settings.chunks_at_once + 1,  # one reads ahead
        )
        yield from processes.results([int(chunk) for chunk in chunks], is_over)

    def held(self, num_chunks: int) -> dict[str, float]:
        size = min(self.max_actors, num_chunks)
        return {"cpu_hours": size * self.cpus, "gpu_hours": size * self.gpus}


def num_cpus() -> int:
    """Return the CPUs of the cluster that this process is connected to; 0 without a cluster."""
    return int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else 0


def map_in_processes(
    make: Callable[[], Callable[[T], R]],
    items: Sequence[T],
    *,
    num_processes: int,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[tuple[int, R]]:
    """Yield the index of each item and `make()(item)`, as soon as it is done; in any order.

    make: called once in each process, which then takes one item after the other. num_processes: at
    most; no more than there are items. cpus, gpus: of each process.

    Raises the XRecError that a process raised, or ClusterError, also if two processes died with
    one item.
    """
    if not items:
        return
    processes = _Processes(
        make=partial(_ItemsOf, make),
        max_size=min(num_processes, len(items)),
        cpus=cpus,
        gpus=gpus,
        references=[ray.put(cloudpickle.dumps(item)) for item in items],
    )
    for index, made in processes.results(range(len(items)), lambda: False):
        yield index, cloudpickle.loads(made)


@dataclass(frozen=True)
class _Processes:
    """Processes that do numbers.

    make: makes what does a number in a process, from its marks, node, name, and `references`.
    slots: how many numbers a process does at the same time. num_threads: how many it takes.
    """

    make: Callable[..., Callable[[int], object]]
    max_size: int
    min_size: int | None = None
    cpus: float = 1
    gpus: float = 0
    slots: int = 1
    num_threads: int = 1
    references: Sequence[ray.ObjectRef] = ()

    def results(
        self, numbers: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """Yield each number that is done and its result; see `Pool.summaries`."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside = partial(ray.remote, num_cpus=0, scheduling_strategy=here)
        marks = beside(max_concurrency=2)(_MarksActor).remote(self.max_size, numbers, self.slots)
        execution = beside()(_Execution).remote()
        watch = RayWatch()
        try:
            with watch:
                given = (cloudpickle.dumps(self.make), self.num_threads, marks, self.references)
                fewest = min(self.min_size or self.max_size, self.max_size)
                running = execution.run.remote(given, fewest, self.max_size, self.cpus, self.gpus)
                yield from _collected(len(numbers), marks, running, watch, is_over)
                ray.wait([running], timeout=_SECONDS_TO_END)  # lets processes end by themselves
        except RayError as error:
            raise ClusterError(
                f"Ray could not run the job's processes ({type(error).__name__}: "
                f"{str(error)[:500]}); run the job again to go on with what is left",
                code="ray_failed",
            ) from error
        finally:
            if not watch.has_ended:
                for actor in (execution, marks):
                    ray.kill(actor)


def _collected(
    num_left: int, marks: Any, running: ray.ObjectRef, watch: RayWatch, is_over: Callable[[], bool]
) -> Iterator[tuple[int, Any]]:
    news, has_ended = None, False
    while num_left:
        if news is None:
            # Asked before the news, which then have all that the processes did until they ended.
            has_ended = bool(ray.wait([running], timeout=0)[0])
            news = marks.news.remote(_SECONDS_BETWEEN_LOOKS)
        ready, _ = ray.wait([news], timeout=_SECONDS_BETWEEN_LOOKS)
        watch.check()
        if is_over():
            marks.call.remote("is_over", True)
        if not ready:
            continue
        done, error = ray.get(news)
        news = None
        for number, result in done:
            num_left -= 1
            yield number, result
            if is_over():
                marks.call.remote("is_over", True)
        if error is not None:
            raise error
        if has_ended and not done:
            ray.get(running)  # raises if it failed
            if is_over():
                return
            raise ClusterError(
                f"the job's processes ended before {num_left} pieces of work were done; run the "
                "job again to go on with them",
                code="processes_ended",
                saw=num_left,
            )


class _MarksActor:
    """The marks, in a process beside the driver; the driver waits in one thread for news."""

    def __init__(self, max_actors: int, numbers: Sequence[int], slots: int):
        self._marks = Marks(max_actors, _LostNodes(), numbers, slots)
        self._changed = Condition()

    def call(self, method: str, *arguments: Any) -> Any:
        with self._changed:
            answer = getattr(self._marks, method)(*arguments)
            self._changed.notify_all()
        return answer

    def news(self, seconds: float) -> tuple[list[tuple[int, Any]], XRecError | None]:
        """Return the news as soon as there are some, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(self._marks.has_news, seconds)
            return self._marks.news()


class _LostNodes:
    """The ids of the nodes that are gone, as of at most a second ago."""

    def __init__(self) -> None:
        self._ids, self._seen_at = set[str](), -1.0

    def __call__(self) -> set[str]:
        if time.monotonic() - self._seen_at > _SECONDS_BETWEEN_LOOKS:
            self._ids = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
            self._seen_at = time.monotonic()
        return self._ids


class _Execution:
    """Ray Data, in a process beside the driver."""

    def run(
        self, given: tuple[Any, ...], min_size: int, max_size: int, cpus: float, gpus: float
    ) -> None:
        """Return once all processes, which get what is `given`, have ended their work."""
        # Ray prints as an error that Ray Data passes its functions by reference.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.memory_usage_poll_interval_s = None  # else each call has a thread that reads /proc
        context.op_resource_reservation_enabled = False  # else a pool grows to half of the CPUs
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # A pool grows only while each process has a call to spare.
        num_each = 1 if min_size == max_size else 2
        num_calls = num_each * max_size
        ray.data.range(num_calls, override_num_blocks=num_calls).map_batches(
            DoWork,
            fn_constructor_args=given,
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                min_size=min_size,
                max_size=max_size,
                max_tasks_in_flight_per_actor=num_each,
                max_concurrent_calls_per_actor=1,
            ),
            num_cpus=cpus,
            num_gpus=gpus,
        ).materialize()


class DoWork:
    """What Ray Data calls in each process; it reports errors to the marks, and raises none."""

    def __init__(
        self, make: bytes, num_threads: int, marks: Any, references: Sequence[ray.ObjectRef]
    ):
        context = ray.get_runtime_context()
        self._marks, self._name, node = RemoteMarks(marks), uuid.uuid4().hex, context.get_node_id()
        self._num_threads, self._asking = num_threads, Lock()
        self._do: Callable[[int], object] | None = None
        if not self._marks.starting(self._name, context.get_actor_id(), node):
            return
        try:
            self._do = unpack(make)(self._marks, node, self._name, references)
        except Exception as error:  # noqa: BLE001  it is the driver that raises it
            self._marks.fail(portable(error))
        else:
            self._marks.ready()

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Do numbers until none is left."""
        if self._do is not None:
            with ThreadPoolExecutor(self._num_threads) as pool:
                each = [pool.submit(self._work, self._do) for _ in range(self._num_threads)]
            for thread in each:
                thread.result()
        return block

    def _work(self, do: Callable[[int], object]) -> None:
        try:
            while (number := self._next()) is not None:
                do(number)
        except Exception as error:  # noqa: BLE001  it is the driver that raises it
            self._marks.fail(portable(error))

    def _next(self) -> int | None:
        with self._asking:  # one thread asks while others wait
            while True:
                number: int | None = self._marks.next(self._name)
                if number != WAIT:
                    return number
                time.sleep(_SECONDS_BETWEEN_LOOKS)


class RemoteMarks:
    """The marks (`Marks`) as seen from a process."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: ray.get(self._actor.call.remote(name, *arguments))


class _ChunksOf:
    """Does chunks in a process."""

    def __init__(self, settings: WorkerSettings, marks: Any, node: str, name: str, _: Any):
        self._worker = ChunkWorker(settings, marks, node, name)

    def __call__(self, chunk: int) -> None:
        self._worker.do(chunk)


class _ItemsOf:
    """Does items in a process."""

    def __init__(
        self,
        make: Callable[[], Callable[[Any], Any]],
        marks: Any,
        node: str,
        name: str,
        items: Sequence[ray.ObjectRef],
    ):
        self._marks, self._node, self._name, self._items = marks, node, name, items
        self._do = make()

    def __call__(self, index: int) -> None:
        """Do an item, unless two processes died with it."""
        told = self._marks.attempts(index, 1, self._name)
        if isinstance(told, str) or told[0][0].num_deaths:
            raise ClusterError(
                "two processes died with the same work, which is often for lack of memory; give "
                "each more memory, or start fewer, and run the job again",
                code="processes_died",
                saw=2,
            )
        if self._marks.begin(index, (0, 1), self._name, self._node):
            made = self._do(cloudpickle.loads(ray.get(self._items[index])))
            self._marks.done(index, cloudpickle.dumps(made))
