"""A language model behind an endpoint that speaks the OpenAI API.

The openai client tries again and waits. Every request, repeated ones too, takes its turn at the
rate limiter.
"""

import asyncio
import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from pydantic import SecretStr

from xrec.config import EndpointModelConfig, SamplingConfig
from xrec.errors import EndpointError, EndpointUnreachableError
from xrec.text.answers import OUTAGES, fault_of, read_answer
from xrec.text.model import Prompt, RawReply, ReplyFailure, Usage
from xrec.text.schema import strict_schema

_MOST_REFUSED = 8
"""So many prompts refused by an endpoint that has not answered one yet are no prompt's fault."""


class EndpointModel:
    """A `LanguageModel` over an endpoint, as long as the process lives.

    An event loop in a thread of its own makes the requests, of several calls of `write` too: they
    share the rate and the `concurrency` places of the config. A prompt has its place until the
    caller comes back for the next reply. So after a kill, no more prompts can be without a reply
    that the caller has kept than there are places.
    """

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._config, self._key = config, key
        per_minute = config.requests_per_minute
        self._requests = AsyncLimiter(1, 60 / per_minute) if per_minute else None
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=config.base_url,
            max_retries=config.max_retries,
            timeout=config.timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._admit]}),
        )
        self._replied_at = float("-inf")
        self._num_refused = 0  # prompts refused before the first reply
        self._ended: EndpointError | None = None  # after which nothing is asked any more
        self._places = threading.Semaphore(config.concurrency)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="xrec endpoint", daemon=True).start()

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
                    future = asyncio.run_coroutine_threadsafe(
                        self._reply(index, prompt, sampling), self._loop
                    )
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

    async def _reply(self, index: int, prompt: Prompt[Any], sampling: SamplingConfig) -> RawReply:
        """The reply to a prompt; raises EndpointError if no prompt can have one."""
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))
        try:
            return await self._asked(index, self._fields(prompt, sampling))
        except EndpointError as error:
            self._ended = error
            raise

    async def _asked(self, index: int, fields: dict[str, Any]) -> RawReply:
        words = "".join(message["content"] for message in fields["messages"])
        started_at, num_requests = time.monotonic(), 1
        try:
            response = await self._client.chat.completions.with_raw_response.create(**fields)
            num_requests += response.retries_taken
            reply = read_answer(response.parse(), index, words, num_requests)
        except (openai.APIError, ValueError) as error:
            fault = fault_of(error, self._config, self._key)
            if isinstance(error, openai.APIError):
                num_requests += int(error.request.headers.get("x-stainless-retry-count", 0))
        else:
            self._replied_at = time.monotonic()
            return reply
        # The error is not chained: its request has the key among its headers.
        if isinstance(fault, EndpointError):
            raise fault
        self._check_alive(fault, started_at)
        return RawReply(index, "", Usage(num_requests=num_requests), failure=fault)

    async def _admit(self, request: object) -> None:
        """Wait for the turn of a request, which may be a repeated one."""
        if self._requests is not None:
            await self._requests.acquire()

    def _fields(self, prompt: Prompt[Any], sampling: SamplingConfig) -> dict[str, Any]:
        """The arguments of a request; `extra` changes our fields, or leaves them out by null."""
        config = self._config
        with_lengths = config.structured_output == "bounded_json_schema"
        schema = strict_schema(prompt.schema, with_lengths=with_lengths)
        messages = [{"role": each.role, "content": each.content} for each in prompt.messages]
        fields: dict[str, Any] = {
            "model": config.model,
            "messages": messages,
            "max_completion_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "temperature": sampling.temperature,
        }
        if config.structured_output == "prompt":
            messages[-1]["content"] += (
                "\n\nAnswer with one JSON object and nothing else. It must fit this schema: "
                + json.dumps(schema, ensure_ascii=False)
            )
        else:
            named = {"name": prompt.schema.__name__, "schema": schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": named}
        extra = {name: value for name, value in config.extra.items() if value is not None}
        left_out = config.extra.keys() - extra.keys()
        sent = {k: v for k, v in fields.items() if v is not None and k not in left_out}
        return {**sent, "extra_body": extra}

    def _check_alive(self, fault: ReplyFailure, started_at: float) -> None:
        """Raise EndpointError unless the fault is the prompt's own, as others have replies."""
        url = self._config.base_url
        if fault.reason in OUTAGES and self._replied_at < started_at:
            raise EndpointUnreachableError(
                f"{url}: no reply to any prompt since this one was first asked, and it failed for "
                f"good: {fault.message}; see to base_url and the endpoint, and run again, what is "
                "committed stays",
                code="no_reply",
                key=url,
                saw=fault.reason,
            )
        if self._replied_at == float("-inf"):
            self._num_refused += 1
        if self._num_refused >= _MOST_REFUSED:
            raise EndpointError(
                f"{url}: it refused the first {self._num_refused} prompts ({fault.message}); "
                "check model, and structured_output, sampling and extra, which some endpoints do "
                "not know",
                code="prompts_refused",
                key=url,
                saw=self._num_refused,
            )
