"""Chunks on Ray Data: an actor pool that loads the task once a process, and does a few a block.

Only the chunks' numbers and summaries pass through Ray's object store.
"""

import gc
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import ray
import ray.data
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xrec.bulk.runs.result import Summary
from xrec.bulk.work.marks import Marks
from xrec.bulk.work.ray_actors import as_xrec_error, raises_if_ray_ends, unpack
from xrec.bulk.work.worker import ChunkWorker, WorkerSettings
from xrec.errors import ClusterError

T = TypeVar("T")
R = TypeVar("R")

_MOST_BLOCKS = 8192
"""A block of Ray Data takes some 70 KB of the driver's memory."""
_BLOCKS_PER_ACTOR = 64
"""A block takes Ray some 10 ms of CPU. At the end the others wait for at most one block."""


class Pool(Protocol):
    """What does the chunks of a pass."""

    def summaries(
        self, settings: WorkerSettings, chunks: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Summary]]:
        """Yield each chunk that is done, with the summary of its result, in any order.

        is_over: asked after each chunk. Once it is true, no chunk is begun, and those that were not
        have a summary of no rows. Raises the XRecError that a process raised, or ClusterError.
        """
        ...

    def held(self, num_chunks: int) -> dict[str, float]:
        """The CPUs and GPUs that it holds for so many chunks, as costs of an hour."""
        ...


@dataclass(frozen=True)
class RayPool:
    """`max_actors` processes, or fewer as long as the cluster has no room for all.

    min_actors: with fewer than `max_actors` the pool grows while all are busy, and shrinks. cpus,
    gpus: what each process gets. Ray must be initialised.
    """

    max_actors: int
    min_actors: int | None = None
    cpus: float = 1
    gpus: float = 0

    def summaries(
        self, settings: WorkerSettings, chunks: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Summary]]:
        size = min(self.max_actors, len(chunks))
        marks = _marks_actor(size)
        packed = ray.put(cloudpickle.dumps(settings))
        num_blocks = min(len(chunks), _MOST_BLOCKS, _BLOCKS_PER_ACTOR * size)
        blocks = [[int(chunk) for chunk in block] for block in np.array_split(chunks, num_blocks)]
        with _ray_data(), _own_errors():
            for row in _rows(self._dataset(packed, marks, blocks, size, settings.chunks_at_once)):
                yield row["chunk"], cloudpickle.loads(row["summary"])
                if is_over():
                    marks.is_over.remote(True)

    def held(self, num_chunks: int) -> dict[str, float]:
        size = min(self.max_actors, num_chunks)
        return {"cpu_hours": size * self.cpus, "gpu_hours": size * self.gpus}

    def _dataset(
        self, packed: Any, marks: Any, blocks: list[list[int]], size: int, chunks_at_once: int
    ) -> ray.data.Dataset:
        """The summaries of the chunks of each block."""
        fewest = min(size, self.min_actors or size)
        calls = chunks_at_once + 1  # the last one only reads ahead
        pool = ray.data.ActorPoolStrategy(
            min_size=fewest,
            max_size=size,
            # A pool that is to grow must see more work than it has room for.
            max_tasks_in_flight_per_actor=calls if fewest == size else 2 * calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )
        return ray.data.range(len(blocks), override_num_blocks=len(blocks)).map_batches(
            DoChunks,
            fn_constructor_args=(packed, marks, ray.put(blocks)),
            batch_size=None,
            batch_format="numpy",
            compute=pool,
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )


def _rows(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """The rows as soon as they are there.

    Not by `iter_batches`: of an execution that failed, its threads would keep the processes.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            yield from ray.get(block).to_pylist()


class DoChunks:
    """What a process of Ray Data does: it makes a ChunkWorker, and gives it chunks."""

    def __init__(self, packed: Any, marks: Any, blocks: Any):
        self._blocks: list[list[int]] = ray.get(blocks)
        node = ray.get_runtime_context().get_node_id()
        remote = RemoteMarks(marks)
        with _starting(remote):
            self._worker = ChunkWorker(unpack(ray.get(packed)), remote, node)  # type: ignore[arg-type]

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Do the chunks of a block; those that have a result already are passed over."""
        (place,) = block["id"]
        chunks = self._blocks[int(place)]
        summaries = [cloudpickle.dumps(self._worker.do(chunk)) for chunk in chunks]
        return {"chunk": chunks, "summary": summaries}


class RemoteMarks:
    """The marks of the driver (`Marks`), from a process of the pool."""

    def __init__(self, actor: Any):
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: ray.get(getattr(self._actor, name).remote(*arguments))


@contextmanager
def _starting(marks: RemoteMarks) -> Iterator[None]:
    """A process loads within; raises ClusterError if too many in a row did so in vain."""
    if (why_not := marks.starting()) is not None:
        raise ClusterError(why_not)
    yield
    marks.ready()


def _marks_actor(max_actors: int) -> Any:
    """Marks beside the driver, which end with it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, scheduling_strategy=here)(Marks)
    return remote.remote(max_actors, _lost_nodes)


def _lost_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


@contextmanager
def _ray_data() -> Iterator[None]:
    """Settings of Ray Data for what is made within; afterwards its processes are given back."""
    gc.collect()  # of an execution that failed before, as far as its error was held at its end
    context = ray.data.DataContext.get_current()
    names = {
        "max_errored_blocks": 0,
        "enable_progress_bars": False,
        "memory_usage_poll_interval_s": None,  # else each block gets a thread that reads /proc
        "op_resource_reservation_enabled": False,  # else a pool grows to half of the CPUs only
    }
    before = {name: getattr(context, name) for name in names}
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that bars are off
    for name, value in names.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        gc.collect()  # an execution that failed keeps its processes until it is collected


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise our errors in place of Ray's.

    Ray's refer to the execution, and so to its processes, which stay as long as the error does. So
    ours must not refer to Ray's, nor any frame that it passes through to the dataset.
    """
    own = None
    try:
        with raises_if_ray_ends():
            yield
    except RayError as error:
        own = as_xrec_error(error)
    if own is not None:
        raise own


def num_cpus() -> int:
    """The CPUs of the cluster that this process is connected to; 0 if it is to none."""
    return int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else 0


def map_in_processes(
    make: Callable[[], Callable[[T], R]],
    items: Sequence[T],
    *,
    num_processes: int,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[tuple[int, R]]:
    """Yield the place of each item and `make()(item)`, as soon as it is there; in any order.

    make: called once in each process, which then takes one item after the other. num_processes: at
    most; no more than there are items. cpus, gpus: of each process.

    Raises the XRecError that a process raised, or ClusterError, also if two processes died with
    one item.
    """
    if not items:
        return
    num_processes = min(num_processes, len(items))
    marks, packed = _marks_actor(num_processes), ray.put(cloudpickle.dumps(make))
    rows = [{"place": place, "item": cloudpickle.dumps(item)} for place, item in enumerate(items)]
    pool = ray.data.ActorPoolStrategy(size=num_processes, max_tasks_in_flight_per_actor=1)
    with _ray_data(), _own_errors():
        items_data = ray.data.from_items(rows, override_num_blocks=len(rows))
        done = items_data.map(
            DoItem, fn_constructor_args=(packed, marks), compute=pool, num_cpus=cpus, num_gpus=gpus
        )
        for row in _rows(done):
            yield row["place"], cloudpickle.loads(row["made"])


class DoItem:
    """What a process of `map_in_processes` does; Ray begins an item anew whose process died."""

    def __init__(self, packed: Any, marks: Any):
        self._marks = RemoteMarks(marks)
        self._name = uuid.uuid4().hex
        self._node = ray.get_runtime_context().get_node_id()
        with _starting(self._marks):
            self._do = unpack(ray.get(packed))()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do an item, unless two processes died with it."""
        place = int(row["place"])
        told = self._marks.attempts(place, 1, self._name)
        if isinstance(told, str) or told[0][0].num_deaths:
            raise ClusterError(
                "two processes died with the same work, which is often for lack of memory; give "
                "each more memory, or start fewer, and run the job again"
            )
        self._marks.begin(place, (0, 1), self._name, self._node)
        made = self._do(cloudpickle.loads(row["item"]))
        self._marks.done(place)
        return {"place": place, "made": cloudpickle.dumps(made)}
