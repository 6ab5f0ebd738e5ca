"""A stub engine: it writes texts that a test gives it, in place of a language model's."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from xrec.generate.engine import Advance, Completion, TextParams
from xrec.generate.shared_engine import EngineRequest
from xrec.serve.live_explainer import LiveExplainer


class ScriptedEngine:
    """Writes the given texts token by token, each as one more text of the same prompt.

    The last text is never finished unless it `ends`.
    """

    def __init__(self, live: LiveExplainer, *texts: str, ends: bool = True):
        self.core, self.failure, self._ends = live.engine.core, None, ends
        encode = live._explainer.pairs.builder.encode_explanation
        self._scripts = [encode(text)[:-1] for text in texts]

    @contextmanager
    def at_work(self, requests: Sequence[EngineRequest]) -> Iterator[None]:
        (request,) = requests
        asyncio.get_running_loop().set_default_executor(Here())
        self._write(request, self._scripts.pop(0), 1)
        yield

    def resubmit(self, request: EngineRequest, params: TextParams) -> None:
        self._write(request, self._scripts.pop(0), 1)

    def _write(self, request: EngineRequest, ids: list[int], length: int) -> None:
        completion = Completion(0, ids, "stop") if length == len(ids) and self._ends else None
        request.tell(Advance(0, ids[:length], completion))
        if length < len(ids):
            loop = asyncio.get_running_loop()
            loop.call_later(0.002, self._write, request, ids, length + 1)


class Here(ThreadPoolExecutor):
    """Does all work at once in the loop's thread, so that each token is read before the next."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **values: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **values))
        except Exception as error:  # noqa: BLE001  it goes to whoever waits
            done.set_exception(error)
        return done
