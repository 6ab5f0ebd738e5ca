"""A stub engine: it writes texts that a test gives it, in place of a language model's."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xrec.generate.engine import Advance, Completion, TextParams
from xrec.generate.shared_engine import EngineRequest
from xrec.serve.live_explainer import LiveExplainer


class ScriptedEngine:
    """Writes the given texts token by token, the second one if the first one is refused.

    The last text is never finished unless it `ends`.
    """

    def __init__(self, live: LiveExplainer, *texts: str, ends: bool = True):
        self.core, self.failure, self._ends = live.engine.core, None, ends
        encode = live._explainer.pairs.builder.encode_explanation
        self._scripts = [encode(text)[:-1] for text in texts]

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        (request,) = requests
        assert isinstance(request.params, TextParams)
        again, loop = request.params.again, asyncio.get_running_loop()

        def step(ids: list[int], length: int) -> None:
            completion = Completion(0, ids, "stop") if length == len(ids) and self._ends else None
            if completion and self._scripts and again and again(completion) is not None:
                ids, length, completion = self._scripts.pop(0), 0, None
            request.tell(Advance(0, ids[:length], completion))
            if completion is None and length < len(ids):
                loop.call_later(0.002, step, ids, length + 1)

        step(self._scripts.pop(0), 1)
        yield
