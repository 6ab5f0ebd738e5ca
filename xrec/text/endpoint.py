"""A language model behind an endpoint that speaks the OpenAI API.

The openai client retries failed requests and waits between attempts. Every request, including
retries, waits for the rate limiter.
"""

import asyncio
import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from pydantic import SecretStr

from xrec.config import EndpointModelConfig, SamplingConfig
from xrec.errors import EndpointError, EndpointUnreachableError
from xrec.text.answers import OUTAGES, read_answer, read_error
from xrec.text.messages import Prompt, Reply, ReplyFailure, Usage
from xrec.text.replies import strict_schema

_MAX_REFUSED = 8
"""If an endpoint refuses this many prompts before its first reply, the prompts are not to blame."""
_MAX_RETRIES = 10
"""How many times a request is repeated after no answer, or after 408, 409, 429, or 5xx: over a
minute, as the openai client waits 0.5 to 8 seconds each time."""


class EndpointModel:
    """A `LanguageModel` over an endpoint, for the lifetime of the process.

    An event loop in its own thread makes the requests of all calls to `write`, which share the
    config's rate limit and `concurrency` slots. A prompt holds its slot until the caller asks for
    the next reply, so a kill loses at most one reply per slot.
    """

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._config, self._key = config, key
        per_minute = config.requests_per_minute
        self._limiter = AsyncLimiter(1, 60 / per_minute) if per_minute else None
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=config.base_url,
            max_retries=_MAX_RETRIES,
            timeout=config.timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._admit]}),
        )
        self._replied_at = float("-inf")
        self._num_refused = 0  # prompts refused before the first reply
        self._ended: EndpointError | None = None  # once set, no more prompts are sent
        self._slots = threading.Semaphore(config.concurrency)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="xrec endpoint", daemon=True).start()

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel.

        Raises EndpointError, and sends no more prompts, if no prompt can get a reply: the key is
        rejected, the model does not exist, or the endpoint does not respond.
        """
        finished: queue.SimpleQueue[Future[Reply[Any]]] = queue.SimpleQueue()
        waiting, running = enumerate(prompts), set[Future[Reply[Any]]]()
        try:
            while True:
                while self._slots.acquire(blocking=not running):
                    if (asked := next(waiting, None)) is None:
                        self._slots.release()
                        break
                    reply = self._reply(*asked, sampling)
                    future = asyncio.run_coroutine_threadsafe(reply, self._loop)
                    running.add(future)
                    future.add_done_callback(finished.put)
                if not running:
                    return
                future = finished.get()
                yield future.result()
                running.remove(future)
                self._slots.release()
        finally:
            for future in running:
                future.cancel()
                self._slots.release()

    async def _reply(self, index: int, prompt: Prompt[Any], sampling: SamplingConfig) -> Reply[Any]:
        """Return the reply to a prompt; raise EndpointError if no prompt can get one."""
        if self._ended is not None:
            raise self._ended
        fields = self._fields(prompt, sampling)
        words = "".join(message["content"] for message in fields["messages"])
        started_at, num_requests = time.monotonic(), 1
        try:
            response = await self._client.chat.completions.with_raw_response.create(**fields)
            num_requests += response.retries_taken
            reply = read_answer(response.parse(), index, words, num_requests)
        except (openai.APIError, ValueError) as error:
            fault = read_error(error, self._config, self._key)
            if isinstance(error, openai.APIError):
                num_requests += int(error.request.headers.get("x-stainless-retry-count", 0))
        else:
            self._replied_at = time.monotonic()
            return reply
        # Raised outside the handler: a chained error would contain the request, with the key.
        ended = fault if isinstance(fault, EndpointError) else self._judge(fault, started_at)
        if ended is not None:
            self._ended = ended
            raise ended
        assert isinstance(fault, ReplyFailure)
        return Reply(index, "", Usage(num_requests=num_requests), failure=fault)

    async def _admit(self, request: object) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()

    def _fields(self, prompt: Prompt[Any], sampling: SamplingConfig) -> dict[str, Any]:
        """Return the arguments of a request; `extra` overrides ours, and a null removes one."""
        config = self._config
        with_lengths = config.structured_output == "bounded_json_schema"
        schema = strict_schema(prompt.schema, with_lengths=with_lengths)
        messages = [message._asdict() for message in prompt.messages]
        fields: dict[str, Any] = {
            "model": config.model,
            "messages": messages,
            "max_completion_tokens": sampling.max_tokens,
            "seed": prompt.seed,
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
        removed = config.extra.keys() - extra.keys()
        sent = {k: v for k, v in fields.items() if v is not None and k not in removed}
        return {**sent, "extra_body": extra}

    def _judge(self, fault: ReplyFailure, started_at: float) -> EndpointError | None:
        """Return an error if the endpoint is to blame for a failure, rather than the prompt."""
        url = self._config.base_url
        if fault.reason in OUTAGES and self._replied_at < started_at:
            return EndpointUnreachableError(
                f"{url}: the endpoint does not respond: {fault.message}; no prompt got a reply "
                "meanwhile; check base_url and the endpoint, and rerun; committed texts are kept",
                code="no_reply",
                key=url,
                saw=fault.reason,
            )
        if self._replied_at == float("-inf"):
            self._num_refused += 1
        if self._num_refused < _MAX_REFUSED:
            return None
        return EndpointError(
            f"{url}: the endpoint refused the first {self._num_refused} prompts ({fault.message}); "
            "check that it supports your model, structured_output, sampling and extra",
            code="prompts_refused",
            key=url,
            saw=self._num_refused,
        )
