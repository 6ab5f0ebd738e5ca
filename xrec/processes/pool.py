"""A pool of Ray Data's actors: processes that do numbered pieces of work.

Each process loads what it needs once. Then it takes numbers from the marks, an actor on the
driver's node, and reports results and errors there; nothing else passes between the processes and
the driver. Ray Data starts the processes, grows the pool and replaces processes that die. It runs
in a second actor on the driver's node; killing that actor ends all processes.
"""

import gc
import logging
import os
import select
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock
from typing import Any, Protocol, Self, TypeVar

import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.client import ray as client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xrec.config import Device
from xrec.errors import ClusterError, XRecError
from xrec.processes.marks import WAIT, Marks

logger = logging.getLogger("xrec")


class RayWatch:
    """A check of whether this machine's raylet has ended, after which Ray must not be called.

    Ray does not report it, but ends the process that calls it. A Ray client (ray://) has no raylet.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._raylet: socket.socket | None = None
        if client.is_connected():
            return
        node_id = ray.get_runtime_context().get_node_id()
        own = next(node for node in ray.nodes() if node["NodeID"] == node_id)
        self._raylet = socket.socket(socket.AF_UNIX)
        try:
            self._raylet.connect(own["ObjectStoreSocketName"])
        except OSError as error:
            raise self._ended() from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raylet is not None:
            self._raylet.close()

    def check(self) -> None:
        """Raise ClusterError if the raylet has ended."""
        # Nothing is ever sent on this connection, so it is readable once the raylet has ended.
        if self._raylet is not None and select.select([self._raylet], [], [], 0)[0]:
            raise self._ended()

    def _ended(self) -> ClusterError:
        self.has_ended = True
        what = "Ray has ended: the raylet of this machine is gone; start Ray and run the job again"
        logger.error("%s", what)  # Ray may end this process before the error is seen
        return ClusterError(what, code="ray_ended")


T = TypeVar("T")
R = TypeVar("R")
Make = Callable[..., Callable[[int], object]]
"""Called in each process with the marks and the names of its node and itself, then with any
references given to the pool. Returns the function that does a number and reports it as done."""

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_END = 10.0


class Pool(Protocol):
    """A pool of processes, or a substitute, that does numbered pieces of work."""

    def run(
        self, make: Make, numbers: Sequence[int], is_over: Callable[[], bool], num_threads: int = 1
    ) -> Iterator[tuple[int, Any]]:
        """Yield each finished number with its result, in any order.

        is_over: called after each number and about once a second. Once it returns True, no further
        number starts, and started ones are finished. If it raises, the pool ends. num_threads: how
        many numbers a process does at a time.

        Raise the XRecError that a process raised, or ClusterError.
        """
        ...

    def held(self, num_pieces: int) -> dict[str, float]:
        """Return the CPUs and GPUs that the pool uses for this many pieces, as costs per hour."""
        ...


@dataclass(frozen=True)
class RayPool:
    """A pool of `max_actors` processes, or as many as the cluster has room for.

    Ray must be initialized. min_actors: if less than `max_actors`, the pool grows while all
    processes are busy, and shrinks again. cpus, gpus: per process.
    """

    max_actors: int
    min_actors: int | None = None
    cpus: float = 1
    gpus: float = 0

    def run(
        self,
        make: Make,
        numbers: Sequence[int],
        is_over: Callable[[], bool],
        num_threads: int = 1,
        references: Sequence[ray.ObjectRef] = (),
    ) -> Iterator[tuple[int, Any]]:
        """See `Pool`; `references` are passed on to `make`."""
        most = min(self.max_actors, len(numbers))
        fewest = min(self.min_actors or most, most)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside = partial(ray.remote, num_cpus=0, scheduling_strategy=here)
        marks = beside(max_concurrency=2)(_MarksActor).remote(most, numbers)
        execution = beside()(_Execution).remote()
        watch = RayWatch()
        try:
            with watch:
                given = (cloudpickle.dumps(make), num_threads, marks, references)
                running = execution.run.remote(given, fewest, most, self.cpus, self.gpus)
                yield from _collected(len(numbers), marks, running, watch, is_over)
                ray.wait([running], timeout=_SECONDS_TO_END)  # lets processes end by themselves
        except RayError as error:
            raise ClusterError(
                f"Ray could not run the job's processes ({type(error).__name__}: "
                f"{str(error)[:500]}); run the job again to continue",
                code="ray_failed",
            ) from error
        finally:
            if not watch.has_ended:
                for actor in (execution, marks):
                    ray.kill(actor)

    def held(self, num_pieces: int) -> dict[str, float]:
        size = min(self.max_actors, num_pieces)
        return {"cpu_hours": size * self.cpus, "gpu_hours": size * self.gpus}


def num_cpus() -> int:
    """Return the number of CPUs of the connected cluster; 0 if there is none."""
    return int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else 0


def gpus_each(device: Device, num_processes: int, gpus: int = 1) -> int:
    """Return the number of GPUs for each of `num_processes` processes: `gpus` or 0.

    They get GPUs if `device` is cuda, or if it is auto and the connected cluster has enough.
    """
    has_enough = device == "auto" and ray.cluster_resources().get("GPU", 0) >= num_processes * gpus
    return gpus if device == "cuda" or has_enough else 0


def map_in_processes(
    make: Callable[[], Callable[[T], R]],
    items: Sequence[T],
    *,
    num_processes: int,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[tuple[int, R]]:
    """Yield the index of each item and `make()(item)` once it is done, in any order.

    make: called once in each process, which then does one item after another. num_processes: the
    maximum. cpus, gpus: per process.

    Raise the XRecError that a process raised, or ClusterError if Ray or the processes fail or two
    processes died on the same item.
    """
    if not items:
        return
    references = [ray.put(cloudpickle.dumps(item)) for item in items]
    pool, numbers = RayPool(num_processes, cpus=cpus, gpus=gpus), range(len(items))
    work = partial(_item_work, make)
    for index, result in pool.run(work, numbers, lambda: False, references=references):
        yield index, cloudpickle.loads(result)


def _collected(
    num_left: int, marks: Any, running: ray.ObjectRef, watch: RayWatch, is_over: Callable[[], bool]
) -> Iterator[tuple[int, Any]]:
    def look() -> bool:
        watch.check()
        if ends := is_over():
            marks.call.remote("is_over", True)
        return ends

    while num_left:
        # Checked before the news, which then include everything done before the end.
        has_ended = bool(ray.wait([running], timeout=0)[0])
        news = marks.news.remote(_SECONDS_BETWEEN_LOOKS)
        while not ray.wait([news], timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            look()
        done, error = ray.get(news)
        look()
        for number, result in done:
            num_left -= 1
            yield number, result
            look()
        if error is not None:
            raise error
        if has_ended and not done:
            ray.get(running)  # raises if it failed
            if look():
                return
            raise ClusterError(
                f"the job's processes ended before {num_left} pieces of work were done; run the "
                "job again to continue",
                code="processes_ended",
                saw=num_left,
            )


class _MarksActor:
    """The marks, in an actor on the driver's node; one of its threads waits for news."""

    def __init__(self, max_actors: int, numbers: Sequence[int]):
        self._marks = Marks(max_actors, numbers)
        self._changed = Condition()

    def call(self, method: str, *arguments: Any) -> Any:
        with self._changed:
            answer = getattr(self._marks, method)(*arguments)
            self._changed.notify_all()
        return answer

    def news(self, seconds: float) -> tuple[list[tuple[int, Any]], XRecError | None]:
        """Return the news as soon as there is any, or after this many seconds."""
        lost = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        with self._changed:
            self._marks.lost_nodes = lost
            self._changed.wait_for(self._marks.has_news, seconds)
            return self._marks.news()


class _Execution:
    """Ray Data, in an actor on the driver's node."""

    def run(
        self, given: tuple[Any, ...], min_size: int, max_size: int, cpus: float, gpus: float
    ) -> None:
        """Run the processes, each made from `given`; return once all have finished their work."""
        # Ray prints, as an error, that Ray Data passes its functions by reference.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.memory_usage_poll_interval_s = None  # else each call has a thread that reads /proc
        context.op_resource_reservation_enabled = False  # else a pool grows to half of the CPUs
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # A pool grows only while each process has a spare call.
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
    """What Ray Data calls in each process; it reports errors to the marks instead of raising."""

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
            gc.disable()  # importing torch and transformers takes five seconds, or four without it
            work = cloudpickle.loads(make)
            gc.freeze()  # imported modules stay, so later collections can skip them
            gc.enable()
            self._do = work(self._marks, node, self._name, *references)
        except Exception as error:  # noqa: BLE001  the driver raises it
            self._marks.fail(portable(error))
        else:
            self._marks.ready()

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Do numbers until none are left."""
        if self._do is not None:
            with ThreadPoolExecutor(self._num_threads) as pool:
                threads = [pool.submit(self._work, self._do) for _ in range(self._num_threads)]
            for thread in threads:
                thread.result()
        return block

    def _work(self, do: Callable[[int], object]) -> None:
        try:
            while (number := self._next()) is not None:
                do(number)
        except Exception as error:  # noqa: BLE001  the driver raises it
            self._marks.fail(portable(error))

    def _next(self) -> int | None:
        with self._asking:  # one thread asks while others wait
            while True:
                number: int | None = self._marks.next(self._name)
                if number != WAIT:
                    return number
                time.sleep(_SECONDS_BETWEEN_LOOKS)


class RemoteMarks:
    """A proxy for the marks (`Marks`) in a process."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: ray.get(self._actor.call.remote(name, *arguments))


def _item_work(
    make: Callable[[], Callable[[Any], Any]],
    marks: Any,
    node: str,
    name: str,
    *items: ray.ObjectRef,
) -> Callable[[int], object]:
    """Return the function that does an item by its index, unless two processes died on it."""
    work = make()

    def do(index: int) -> None:
        answer = marks.attempts(index, 1, name)
        if isinstance(answer, str) or answer[0][0].num_deaths:
            raise ClusterError(
                "two processes died on the same work, often for lack of memory; give each process "
                "more memory, or start fewer, and run the job again",
                code="processes_died",
                saw=2,
            )
        marks.begin(index, (0, 1), name, node)
        made = work(cloudpickle.loads(ray.get(items[index])))
        marks.done(index, cloudpickle.dumps(made))

    return do


def portable(error: Exception) -> XRecError:
    """Return the error that the driver raises for a process's error: a copy if an XRecError."""
    if isinstance(error, XRecError):
        copy: XRecError = cloudpickle.loads(cloudpickle.dumps(error))
        return copy
    ours = ClusterError(
        f"the job's processes failed ({type(error).__name__}: {str(error)[:500]}); run the job "
        "again to continue",
        code="processes_failed",
        key=type(error).__name__,
    )
    ours.add_note("".join(traceback.format_exception(error)))
    return ours
