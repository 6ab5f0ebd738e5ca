"""A language model behind an endpoint that speaks the OpenAI API."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from pydantic import SecretStr

from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.text.endpoint_client import EndpointClient
from xrec.text.model import Prompt, RawReply, about_tokens


class EndpointModel:
    """A `LanguageModel` over an endpoint; close it, or use it as a context.

    An event loop in a thread of its own makes the requests, of several calls of `write` too: they
    share the rate and the `concurrency` places of the config. A prompt has its place until the
    caller comes back for the next reply. So after a kill, no more prompts can be without a reply
    that the caller has kept than there are places.
    """

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._client = EndpointClient(config, key)
        self._places = threading.Semaphore(config.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="xrec endpoint", daemon=True
        )
        self._thread.start()

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """See LanguageModel.

        Raises EndpointError if no prompt can have a reply: the key is refused, there is no such
        model, the endpoint answers to nothing. The other prompts are not asked any more then.
        """
        finished: queue.SimpleQueue[Future[RawReply]] = queue.SimpleQueue()
        waiting, open_ = deque(enumerate(prompts)), set[Future[RawReply]]()
        try:
            while waiting or open_:
                while waiting and self._places.acquire(blocking=not open_):
                    index, prompt = waiting.popleft()
                    future = self._submit(self._client.reply(index, prompt, sampling))
                    open_.add(future)
                    future.add_done_callback(finished.put)
                future = finished.get()
                yield future.result()
                open_.remove(future)
                self._places.release()
        finally:
            for future in open_:
                future.cancel()
                self._places.release()

    def num_tokens(self, text: str) -> int:
        """See LanguageModel; the endpoint's tokenizer is not known."""
        return about_tokens(text)

    def close(self) -> None:
        """Close the connections and end the thread. Calling it twice has no effect."""
        if not self._thread.is_alive():
            return
        self._submit(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "EndpointModel":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
