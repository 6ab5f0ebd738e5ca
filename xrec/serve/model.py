"""The model replicas as a frontend sees them, and the values that both send to each other."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from xrec.backfill.lookup import Explained
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.problems import ProblemError, unavailable

logger = logging.getLogger("xrec")

OVERLOADED = "overloaded"
DEAD = (RayError, RayServeException)  # a replica died or raised, or there is none


class PairError(Exception):
    """Why a pair has no explanation. It is raised within a replica, and returned by it.

    `reason` is one of those of a backfill's failed rows, or "overloaded", "unknown_user",
    "unknown_item", "known_user" or "no_vector".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)
        self.reason, self.message = reason, message


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

    Each method raises ProblemError with status 503 if no replica answers. If the caller gives up,
    the call is cancelled at the replica too.
    """

    def __init__(self, handle: DeploymentHandle, models: str, num_replicas: int):
        self._handle, self._streaming = handle, handle.options(stream=True)
        self._models, self._num_replicas = models, num_replicas
        self._having: set[str] = set()

    async def is_loaded(self) -> bool:
        """Return whether all replicas were seen to have the models, by now; they keep them.

        Serve draws a replica for each call, so this asks often, and is to be called again.
        """
        calls = (self._call(self._handle.has) for _ in range(2 * self._num_replicas))
        with suppress(ProblemError):
            for replica, has in await asyncio.gather(*calls):
                (self._having.add if has else self._having.discard)(replica)
        return len(self._having) >= self._num_replicas

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
            raise _unavailable(error) from error
        finally:
            if not is_over:
                events.cancel()

    async def model_fingerprint(self) -> str:
        """Return the fingerprint of the language model, adapter and graph of a replica."""
        return str(await self._call(self._handle.model_fingerprint))

    async def _call(self, method: Any, *arguments: Any) -> Any:
        response = method.remote(self._models, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except DEAD as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> ProblemError:
    logger.warning("no model replica answered: %s", type(error).__name__)
    return unavailable()
