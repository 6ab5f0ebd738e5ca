"""A language model behind an endpoint that speaks the OpenAI API.

The openai client retries failed requests and waits between attempts. Every request, including
retries, waits for the rate limiter. Some servers and routers omit fields, send null, or split the
message into parts. Some repeat the API key in their errors, so our messages hide it.
"""

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import SecretStr

from xrec.config import EndpointConfig, EndpointModelConfig, SamplingConfig
from xrec.errors import EndpointAccessError, EndpointError, EndpointUnreachableError, Failure
from xrec.storage import Location, fingerprint_of
from xrec.text.batches import Batches, completion_of
from xrec.text.messages import Message, Prompt, Reply, Usage, about_tokens, strict_schema

_OUTAGES = ("rate_limited", "endpoint_error", "timeout", "unreachable")
"""Failures that are caused by the endpoint, not by the prompt."""
_TEMPORARY = (408, 409, 429)
_USED_UP = ("insufficient_quota", "billing_hard_limit_reached")
_MAX_SHOWN_CHARACTERS = 300
_MIN_KEY_CHARACTERS = 6
MAX_RETRIES = 10
"""How many times a request is repeated after no answer, or after 408, 409, 429, or 5xx: over a
minute, as the openai client waits 0.5 to 8 seconds each time."""


class Endpoint:
    """Sends requests to an endpoint, for the lifetime of the process.

    An event loop in its own thread makes the requests, which share the config's rate limit.

    batches: where batches in progress are listed; needed for `config.batch`.
    limiter: makes what limits the rate, given a number of requests and their seconds.
    """

    def __init__(
        self,
        config: EndpointConfig,
        key: SecretStr | None,
        batches: Location | None = None,
        limiter: Callable[[float, float], AsyncLimiter] = AsyncLimiter,
    ):
        self._config, self._key = config, key
        per_minute = config.requests_per_minute
        self._limiter = limiter(1, 60 / per_minute) if per_minute else None
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=config.base_url,
            max_retries=MAX_RETRIES,
            timeout=config.timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._admit]}),
        )
        self._batches: Batches | None = None
        if config.batch and batches is not None:
            folder = batches / fingerprint_of(config.base_url)
            self._batches = Batches(self._client, folder, config.concurrency)
        self._replied_at = float("-inf")
        self._ended: EndpointError | None = None  # once set, no more prompts are sent
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="xrec endpoint", daemon=True).start()

    def send(self, index: int, messages: Sequence[Message], **fields: object) -> Future[Reply[Any]]:
        """Request a reply to `messages`; `fields` are those of a chat completion, None for none.

        `extra` overrides our fields, and a null in it removes one. The future raises EndpointError,
        as do all later ones, if no prompt can get a reply: the key is rejected, the model does not
        exist, or the endpoint does not respond.
        """
        config = self._config
        ours = {
            "model": config.model,
            "messages": [message._asdict() for message in messages],
            **fields,
        }
        extra = {name: value for name, value in config.extra.items() if value is not None}
        removed = config.extra.keys() - extra.keys()
        sent = {k: v for k, v in ours.items() if v is not None and k not in removed}
        reply = self._reply(index, {**sent, "extra_body": extra})
        return asyncio.run_coroutine_threadsafe(reply, self._loop)

    async def _reply(self, index: int, fields: dict[str, Any]) -> Reply[Any]:
        """Return the reply to a request; raise EndpointError if no prompt can get one."""
        if self._ended is not None:
            raise self._ended
        words = "".join(message["content"] for message in fields["messages"])
        started_at, num_requests = time.monotonic(), 1
        try:
            if self._batches is not None:
                row = await self._batches.complete(fields)
                self._replied_at = time.monotonic()
                answer = completion_of(row)
            else:
                completions = self._client.chat.completions
                response = await completions.with_raw_response.create(**fields)
                num_requests += response.retries_taken
                answer = response.parse()
            if isinstance(answer, Failure):
                return Reply(index, "", Usage(), failure=answer)
            reply = _read_answer(answer, index, words, num_requests)
            self._replied_at = time.monotonic()
            return reply
        except EndpointError as error:
            self._ended = error
            raise
        except (openai.APIError, ValueError) as error:
            fault = _read_error(error, self._config, self._key)
            if isinstance(error, openai.APIError):
                num_requests += int(error.request.headers.get("x-stainless-retry-count", 0))
        # Raised outside the handler: a chained error would contain the request, with the key.
        self._ended = self._ended or self._judge(fault, started_at)
        if self._ended is not None:
            raise self._ended
        assert isinstance(fault, Failure)
        return Reply(index, "", Usage(num_requests=num_requests), failure=fault)

    async def _admit(self, request: object) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()

    def _judge(self, fault: Failure | EndpointError, started_at: float) -> EndpointError | None:
        """Return an error if the endpoint is to blame for a failure, rather than the prompt."""
        if isinstance(fault, EndpointError):
            return fault
        if fault.reason not in _OUTAGES or self._replied_at >= started_at:
            return None
        url = self._config.base_url
        return EndpointUnreachableError(
            f"{url}: the endpoint does not respond: {fault.message}; no prompt got a reply "
            "meanwhile; check base_url and the endpoint, and rerun; committed texts are kept",
            code="no_reply",
            key=url,
            saw=fault.reason,
        )


class EndpointModel:
    """A `LanguageModel` over an endpoint, for the lifetime of the process.

    All calls to `write` share the config's `concurrency` slots. A prompt holds its slot until the
    caller asks for the next reply, so a kill loses at most one reply per slot.
    """

    def __init__(self, config: EndpointModelConfig, endpoint: Endpoint):
        self._form, self._endpoint = config.structured_output, endpoint
        self._slots = threading.Semaphore(config.concurrency)

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel.

        Raises EndpointError, and sends no more prompts, if no prompt can get a reply (`send`).
        """
        finished: queue.SimpleQueue[Future[Reply[Any]]] = queue.SimpleQueue()
        waiting, running = enumerate(prompts), set[Future[Reply[Any]]]()
        try:
            while True:
                while self._slots.acquire(blocking=not running):
                    if (asked := next(waiting, None)) is None:
                        self._slots.release()
                        break
                    future = self._send(*asked, sampling)
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

    def _send(
        self, index: int, prompt: Prompt[Any], sampling: SamplingConfig
    ) -> Future[Reply[Any]]:
        schema = strict_schema(prompt.schema, with_lengths=self._form == "bounded_json_schema")
        messages, response_format = list(prompt.messages), None
        if self._form == "prompt":
            *_, last = messages
            asked = (
                f"{last.content}\n\nAnswer with one JSON object and nothing else. It must fit this "
                f"schema: {json.dumps(schema, ensure_ascii=False)}"
            )
            messages[-1] = last._replace(content=asked)
        else:
            named = {"name": prompt.schema.__name__, "schema": schema, "strict": True}
            response_format = {"type": "json_schema", "json_schema": named}
        return self._endpoint.send(
            index,
            messages,
            max_completion_tokens=sampling.max_tokens,
            seed=prompt.seed,
            temperature=sampling.temperature,
            response_format=response_format,
        )


def _read_error(
    error: openai.APIError | ValueError, config: EndpointConfig, key: SecretStr | None
) -> Failure | EndpointError:
    """Return what the last attempt's error means; a ValueError is an unreadable response."""
    if isinstance(error, openai.APITimeoutError):
        limit = config.timeout_seconds
        return Failure("timeout", f"no answer within {limit:g} s (timeout_seconds)")
    text = str(error.__cause__ or error)
    if isinstance(error, openai.APIStatusError):
        text = f"{error.status_code} {error.body}"
    if key is not None and len(secret := key.get_secret_value()) >= _MIN_KEY_CHARACTERS:
        text = text.replace(secret, "(key)")
    text = text[:_MAX_SHOWN_CHARACTERS]
    if isinstance(error, openai.APIStatusError):
        return _read_status(error.status_code, error.code or "", text, config)
    if isinstance(error, openai.APIConnectionError):
        return Failure("unreachable", f"the connection failed: {text}")
    return Failure("broken_response", f"invalid response: {text}")


def _read_status(
    status: int, code: str, text: str, config: EndpointConfig
) -> Failure | EndpointError:
    """Interpret a status; errors about the key omit the endpoint's text, which may contain it."""
    url, variable = config.base_url, config.api_key_variable
    if status == 402 or code in _USED_UP:
        return EndpointAccessError(
            f"{url}: the key's quota or balance is used up ({code or status}); raise it and "
            "rerun; committed texts are kept",
            code="quota_used_up",
            saw=code or status,
        )
    if status in (401, 403):
        return EndpointAccessError(
            f"{url}: the endpoint refused the request ({status}); check that api_key_variable "
            f"({variable}) names the environment variable with the key, and that the key is valid "
            f"for model {config.model!r}",
            code="key_refused" if variable else "key_missing",
            key=variable or "api_key_variable",
            saw=status,
        )
    if status == 404 or code == "model_not_found":
        return EndpointError(
            f"{url}: model {config.model!r} was not found, or this URL has no chat completions API "
            f"({text}); check model and base_url",
            code="no_such_model",
            key="model",
            saw=config.model,
        )
    if status in _TEMPORARY or status >= 500:
        return Failure("rate_limited" if status == 429 else "endpoint_error", text)
    is_too_long = code == "context_length_exceeded" or status == 413
    return Failure("prompt_too_long" if is_too_long else "bad_request", text)


def _read_answer(answer: object, index: int, words: str, num_requests: int) -> Reply[Any]:
    """Return the reply in the first choice of `answer`; `words` is the text of the prompt.

    Tokens are estimated (`about_tokens`) if the endpoint does not report them. Raises ValueError if
    `answer` is not a chat completion.
    """
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    text, counted = _text(message.content), getattr(answer, "usage", None)
    num_prompt_tokens = _count(getattr(counted, "prompt_tokens", None), words)
    num_reply_tokens = _count(getattr(counted, "completion_tokens", None), text)
    is_filtered = choice.finish_reason == "content_filter"
    refusal = message.refusal or ("by its content filter" if is_filtered else None)
    failure = Failure("refused", str(refusal)) if refusal else None
    usage = Usage(num_prompt_tokens, num_reply_tokens, num_requests)
    return Reply(index, text, usage, is_cut=choice.finish_reason == "length", failure=failure)


def _count(value: object, text: str) -> int:
    return value if isinstance(value, int) and value >= 0 else about_tokens(text)


def _text(content: object) -> str:
    """Return the text of a message; if it is in parts, only text parts, without thoughts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    if content is None or isinstance(content, str):
        return content or ""
    raise ValueError(f"expected text in the message, got {type(content).__name__}")
