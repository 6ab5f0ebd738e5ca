"""Actors that do works at the same time; results come back as soon as each is done.

These are plain actors of Ray, not an actor pool of Ray Data. Ray Data gives a block's rows when its
task ends, in the order of the inputs, and does the task of a lost actor again without a word, while
the driver must know which rows an actor was lost with.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError

from xrec.bulk.ray_actors import as_xrec_error, unpack
from xrec.bulk.work import Died, Done, Work
from xrec.bulk.worker import ChunkWorker, WorkerSettings
from xrec.errors import ClusterError, XRecError

logger = logging.getLogger("xrec")

_MAX_LOST_STARTS = 3


class ChunkActor:
    """An actor's process; its settings arrive as bytes (see `unpack`)."""

    def __init__(self, packed: bytes):
        self._worker = ChunkWorker(unpack(packed))

    def ready(self) -> None:
        """Answers once the task is made."""

    def do(self, work: Work) -> Done:
        """See `ChunkWorker.do`."""
        return self._worker.do(work)


@dataclass
class _Actor:
    handle: Any
    starting: Any
    """The answer of `ready`; None once it is there."""
    works: dict[Any, Work] = field(default_factory=dict)
    is_reserved: bool = False
    """It gets no more works until it is idle, and then one that is alone."""


class ActorPool:
    """`num_actors` actors, or fewer as long as the cluster has no room for all.

    An actor that is lost is replaced. Each has up to `chunks_at_once` + 1 works, of which it only
    reads the last. Ray must be initialised.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        num_actors: int,
        cpus_per_actor: float,
        gpus_per_actor: float = 0,
    ):
        self._packed = ray.put(cloudpickle.dumps(settings))
        self._num_slots = settings.chunks_at_once + 1
        self._class = ray.remote(ChunkActor).options(
            num_cpus=cpus_per_actor,
            num_gpus=gpus_per_actor,
            max_concurrency=self._num_slots,
            max_restarts=0,
        )
        self._max_actors = num_actors
        self._num_actors = 0
        self._actors: list[_Actor] = []
        self._lost: list[_Actor] = []  # with works whose answers are still to come
        self._num_lost_starts = 0
        self._error: XRecError | None = None

    def start(self, num_works: int) -> None:
        """See Pool."""
        self._num_actors = max(self._num_actors, min(self._max_actors, num_works))
        while len(self._actors) < self._num_actors:
            handle = self._class.remote(self._packed)
            self._actors.append(_Actor(handle, handle.ready.remote()))

    def can_take(self, is_alone: bool) -> bool:
        """See Pool; if there is no idle actor for a work that is alone, one will become idle."""
        if self._free(is_alone) is not None:
            return True
        if is_alone and not any(actor.is_reserved for actor in self._actors):
            ready = [actor for actor in self._actors if actor.starting is None]
            if ready:
                min(ready, key=lambda actor: len(actor.works)).is_reserved = True
        return False

    def submit(self, work: Work) -> None:
        """See Pool."""
        actor = self._free(work.is_alone)
        assert actor is not None
        actor.works[actor.handle.do.remote(work)] = work
        actor.is_reserved = work.is_alone

    def wait(self, timeout_seconds: float) -> list[Done | Died]:
        """See Pool."""
        if self._error is not None:
            raise self._error
        self._lost = [actor for actor in self._lost if actor.works]
        answers = {
            answer: actor
            for actor in (*self._actors, *self._lost)
            for answer in (actor.works if actor.starting is None else (actor.starting,))
        }
        if not answers:
            return []
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(answers), num_returns=1, timeout=timeout_seconds)
        ended: list[Done | Died] = []
        for answer in ready:
            try:
                ended += self._ended(answers[answer], answer)
            except XRecError as error:
                self._error = error  # what else is done comes first
        if self._error is not None and not ended:
            raise self._error
        self.start(0)  # replaces the actors that were lost
        return ended

    def close(self) -> None:
        """See Pool."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors, self._lost, self._num_actors = [], [], 0

    def _free(self, is_alone: bool) -> _Actor | None:
        """The actor with the fewest works that can take one more."""
        num_slots = 1 if is_alone else self._num_slots
        free = [
            actor
            for actor in self._actors
            if actor.starting is None
            and len(actor.works) < num_slots
            and (is_alone or not actor.is_reserved)
        ]
        return min(free, key=lambda actor: len(actor.works), default=None)

    def _ended(self, actor: _Actor, answer: Any) -> Iterator[Done | Died]:
        work = actor.works.pop(answer, None)
        try:
            done = ray.get(answer)
        except RayActorError as error:
            self._drop(actor)
            if work is None:
                self._count_lost_start(error)
            else:
                logger.warning("an actor was lost while it worked on %s: %s", work.name, error)
                yield Died(work, str(error), is_innocent=error.preempted)
            return
        except RayError as error:
            raise as_xrec_error(error) from None  # Ray's error refers to the actors
        if work is None:
            actor.starting = None
            self._num_lost_starts = 0
        else:
            if not actor.works:
                actor.is_reserved = False
            yield done

    def _drop(self, actor: _Actor) -> None:
        if actor in self._actors:
            self._actors.remove(actor)
            self._lost.append(actor)
            ray.kill(actor.handle)  # it may only have been out of reach

    def _count_lost_start(self, error: RayActorError) -> None:
        """An actor that raised an error when it started ends the run; so do some lost ones."""
        if error.actor_init_failed:
            raise as_xrec_error(error) from None
        self._num_lost_starts += 1
        logger.warning("an actor was lost before it was ready: %s", error)
        if self._num_lost_starts >= _MAX_LOST_STARTS:
            raise ClusterError(
                f"{self._num_lost_starts} actors in a row were lost before they were ready, which "
                f"is often for lack of memory: {error}"
            ) from None
