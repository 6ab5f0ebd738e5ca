"""The model replicas as a frontend sees them: a Ray Serve handle that raises one kind of error."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from xrec.serve.live import Delta, Failed, LivePair, LiveText, ModelUnavailableError

_DEAD = (RayError, RayServeException)  # a replica died or raised, or there is none


class HandleModel:
    """A `Model` (`xrec.serve.live`) and its `Readiness`, behind a Serve handle.

    If the caller gives up, the call is cancelled at the replica too.
    """

    def __init__(self, handle: DeploymentHandle):
        self._handle, self._streaming = handle, handle.options(stream=True)

    async def explain(self, pairs: Sequence[LivePair]) -> list[LiveText]:
        """See `Model`."""
        return cast(list[LiveText], await self._call(self._handle.explain, list(pairs)))

    async def nll(
        self, pair: LivePair, text: str, other_users: Sequence[str]
    ) -> list[float] | Failed:
        """See `Model`."""
        return cast(
            "list[float] | Failed",
            await self._call(self._handle.nll, pair, text, list(other_users)),
        )

    async def model_fingerprint(self) -> str:
        """Return the fingerprint of a replica's model."""
        return cast(str, await self._call(self._handle.model_fingerprint))

    async def stream(self, pair: LivePair) -> AsyncGenerator[Delta | LiveText, None]:
        """See `Model`."""
        events = self._streaming.stream.remote(pair)
        is_over = False
        try:
            async for event in events:
                yield event
            is_over = True
        except _DEAD as error:
            raise ModelUnavailableError(type(error).__name__) from error
        finally:
            if not is_over:
                events.cancel()

    async def _call(self, method: Any, *arguments: Any) -> Any:
        response = method.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except _DEAD as error:
            raise ModelUnavailableError(type(error).__name__) from error
