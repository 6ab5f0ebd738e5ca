"""The frontend's handle to the model replicas, and the values that the two exchange."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from xrec.backfill.lookup import Explained
from xrec.errors import ModelError
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.problems import ProblemError, fault, unavailable

logger = logging.getLogger("xrec")

OVERLOADED, OVER_BUDGET = "overloaded", "over_budget"
DEAD = (RayError, RayServeException)  # a replica died or raised, or there is none
_ASK_SECONDS = 2.0  # for replicas to report whether they have loaded the models


class PairError(Exception):
    """The reason why a pair has no explanation. A replica raises it internally and returns it.

    reason: one of a failed row in a backfill, or "overloaded", "over_budget", "unknown_user",
        "unknown_item", "known_user", "no_vector", "not_published" or "bug".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message


def unknown_user() -> PairError:
    """Return the error for a user without a vector and a history; it does not name the user."""
    message = "the user is unknown; send a history, the IDs of items the user interacted with"
    return PairError("unknown_user", message)


@dataclass(frozen=True)
class Draft:
    """The part of an unfinished text that may be shown; it replaces earlier drafts.

    If `is_checked`, it consists of whole sentences that would pass as a finished text.
    """

    text: str
    is_checked: bool


Event = Draft | Explained | PairError
"""An event in the stream of one pair; the last one is not a draft."""


class ModelHandle:
    """A Serve handle to the model replicas, for texts by `models` (`artifacts.models_of`).

    choice: the artifacts of these models, which a replica that lacks them loads.

    Each method raises ProblemError with status 503 if no replica is available, and 500 after a bug
    in one. If the caller is canceled, so is the call in the replica.
    """

    def __init__(self, handle: DeploymentHandle, models: str, choice: Mapping[str, str | None]):
        self._handle, self._streaming = handle, handle.options(stream=True)
        self._models, self._choice = models, choice
        self.is_ready = False
        """Whether a replica had loaded the models at the last call of `is_loaded`."""

    async def is_loaded(self) -> bool:
        """Return whether all replicas have loaded the models; they keep them for a while."""
        try:
            calls = self._handle.broadcast("has", self._models, self._choice)
            replies = await calls.results_async(timeout_s=_ASK_SECONDS, return_exceptions=True)
        except (TimeoutError, *DEAD):
            replies = []
        self.is_ready = True in replies
        return self.is_ready and all(reply is True for reply in replies)

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        """Return a text or an error for each pair, in order.

        If there is no room for all pairs, or for so many from this key, all fail with the reason
        OVERLOADED.
        """
        response = self._handle.explain.remote(self._models, list(pairs), key)
        try:
            results: list[Explained | PairError] = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except DEAD as error:
            raise _problem_of(error) from error
        return results

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Yield drafts of the text while it is written, then the text or an error."""
        events = self._streaming.stream.remote(self._models, pair, parts, key)
        is_over = False
        try:
            async for event in events:
                yield event
            is_over = True
        except DEAD as error:
            raise _problem_of(error) from error
        finally:
            if not is_over:
                events.cancel()


class NoModel(ModelHandle):
    """Stands for the model replicas of an endpoint that shows only what is published."""

    def __init__(self) -> None:
        self.is_ready = True

    async def is_loaded(self) -> bool:
        return True

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        message = "no explanation of the pair is published, and no model writes one (serve.llm)"
        return [PairError("not_published", message) for _ in pairs]

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        for error in await self.explain([pair]):
            yield error


def _problem_of(error: Exception) -> ProblemError:
    """Return the problem after a replica died, was not ready, or hit a bug."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, ModelError):
        logger.error("a model replica failed: %s", type(error.cause).__name__, exc_info=error)
        return fault()
    logger.warning("no model replica is available: %s", type(error).__name__)
    return unavailable()
