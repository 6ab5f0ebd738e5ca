"""The model replica: a Ray Serve deployment that holds a live explainer.

Another adapter is loaded beside the current one and then replaces it.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import torch

from xrec.backfill.identity import sources_of
from xrec.config.serve import ServeConfig
from xrec.errors import ModelError
from xrec.generate.loading import load_explainer
from xrec.serve import metrics
from xrec.serve.artifacts import Swaps
from xrec.serve.live_explainer import MAX_WAITING_PAIRS, LiveExplainer
from xrec.serve.messages import PairRequest
from xrec.serve.metrics import Recorder
from xrec.serve.model import Delta, LiveText, PairError

_SECONDS_BETWEEN_GAUGES = 1.0


class Generator:
    """Loads the model at the first `reconfigure`, and generates until it is stopped."""

    def __init__(self, config: ServeConfig):
        torch.set_num_threads(config.models.cpus_per_replica)
        self._recorder = Recorder()
        self._live: LiveExplainer | None = None
        self._gauges: asyncio.Task[None] | None = None
        self._swaps = Swaps("generator", config, self._take, self._recorder)

    async def reconfigure(self, choice: Mapping[str, str]) -> None:
        """Use the artifacts of `choice`; Serve calls this with a new `user_config`."""
        await self._swaps.to(choice)

    async def explain(self, pairs: Sequence[PairRequest]) -> list[LiveText | PairError]:
        """See `xrec.serve.model.ModelHandle`."""
        return await self._ready().explain(pairs)

    async def stream(self, pair: PairRequest) -> AsyncGenerator[Delta | LiveText | PairError, None]:
        """See `xrec.serve.model.ModelHandle`."""
        async with aclosing(self._ready().stream(pair)) as events:
            async for event in events:
                yield event

    async def model_fingerprint(self) -> str:
        """Return the fingerprint of language model, adapter and graph together."""
        return self._ready().model_fingerprint

    async def at_work(self) -> tuple[int, int]:
        """Return how many pairs are generated or wait, and how many were abandoned so far."""
        return self._ready().num_pending, self._ready().num_abandoned

    def check_health(self) -> None:
        """Raise ModelError if the engine failed; Serve then replaces this replica."""
        if self._live is not None and self._live.engine.failure is not None:
            raise ModelError(f"the engine failed: {self._live.engine.failure}")

    def _ready(self) -> LiveExplainer:
        if self._live is None:
            raise ModelError("the model is not loaded yet")
        return self._live

    async def _take(self, config: ServeConfig) -> None:
        new = await asyncio.to_thread(load_live, config)
        old, self._live = self._live, new
        if old is None:
            self._gauges = asyncio.create_task(self._record_gauges())
        else:
            await old.drained()

    async def _record_gauges(self) -> None:
        num_recorded = 0
        while True:
            live = self._ready()
            waiting = max(0, live.num_pending - live.engine.core.num_rows)
            self._recorder.set(metrics.MODEL_ROWS, live.engine.core.num_rows)
            self._recorder.set(metrics.MODEL_WAITING, waiting)
            self._recorder.increase(metrics.ABANDONED, by=max(0, live.num_abandoned - num_recorded))
            num_recorded = live.num_abandoned
            await asyncio.sleep(_SECONDS_BETWEEN_GAUGES)


def load_live(config: ServeConfig) -> LiveExplainer:
    """Return the live explainer of `config`; raise what `load_explainer` raises.

    This takes long, so it runs beside the event loop. All titles are read here too: the first
    request would otherwise do that on the event loop, and all others would wait.
    """
    explainer = load_explainer(
        sources_of(config),
        device=config.models.device,
        engine=config.engine,
        num_reserved_users=config.engine.max_rows + MAX_WAITING_PAIRS,
        is_streaming=True,
    )
    explainer.pairs.titles.build()
    return LiveExplainer(explainer, config.decoding)
