"""The model replicas as a frontend sees them, and the values that both send to each other."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from xrec.backfill.lookup import Explained
from xrec.errors import ModelError
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.problems import ProblemError, fault, unavailable

logger = logging.getLogger("xrec")

OVERLOADED = "overloaded"
DEAD = (RayError, RayServeException)  # a replica died or raised, or there is none
_ASK_SECONDS = 2.0  # that replicas have to say whether they have the models


class PairError(Exception):
    """Why a pair has no explanation. It is raised within a replica, and returned by it.

    `reason` is one of those of a backfill's failed rows, or "overloaded", "unknown_user",
    "unknown_item", "known_user", "no_vector" or "bug".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message


def unknown_user() -> PairError:
    """Return the error for a user without a vector or a history; it does not name the user."""
    message = "the user is not known; give its history: item ids that it interacted with"
    return PairError("unknown_user", message)


def fault_of_pair(error: Exception) -> PairError:
    """Log an exception that only one pair has, and return the pair's error."""
    logger.error("a pair failed: %s", type(error).__name__, exc_info=error)
    return PairError("bug", fault().problem.detail)


@dataclass(frozen=True)
class Draft:
    """What may be shown of a text that is being written; it takes the place of earlier drafts.

    If `is_checked`, it is whole sentences that would pass as a finished text.
    """

    text: str
    is_checked: bool


Event = Draft | Explained | PairError
"""What a stream of one pair has; the last one is no draft."""


class ModelHandle:
    """Calls a model replica by its Serve handle, for texts of `models` (`artifacts.models_of`).

    Each method raises ProblemError with status 503 if no replica answers, and 500 if one has a bug.
    If the caller gives up, the call is canceled at the replica too.
    """

    def __init__(self, handle: DeploymentHandle, models: str):
        self._handle, self._streaming = handle, handle.options(stream=True)
        self._models = models
        self.is_ready = False
        """Whether a replica had the models when they were last asked (`is_loaded`)."""

    async def is_loaded(self) -> bool:
        """Ask all replicas, and return whether each has the models, which it then keeps for now."""
        try:
            asked = self._handle.broadcast("has", self._models)
            replies = await asked.results_async(timeout_s=_ASK_SECONDS, return_exceptions=True)
        except (TimeoutError, *DEAD):
            replies = []
        self.is_ready = True in replies
        return self.is_ready and all(reply is True for reply in replies)

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        """Return a text, or why there is none, for each pair, in order.

        If there is not room for all pairs, or for so many of this key, all fail with the reason
        OVERLOADED.
        """
        asked = self._handle.explain, list(pairs), key
        found: list[Explained | PairError] = await self._call(*asked)
        return found

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Yield drafts of the text while it is written, then the text, or why there is none."""
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

    async def _call(self, method: Any, *arguments: Any) -> Any:
        response = method.remote(self._models, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except DEAD as error:
            raise _problem_of(error) from error


def _problem_of(error: Exception) -> ProblemError:
    """Return the problem for a replica that is dead or not ready, or that has a bug."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, ModelError):
        logger.error("a model replica failed: %s", type(error.cause).__name__, exc_info=error)
        return fault()
    logger.warning("no model replica answered: %s", type(error).__name__)
    return unavailable()
