"""Asks an endpoint for one reply until it is there, it has failed, or nothing can succeed.

The openai client tries again and waits; it does not check the form of an answer, in which servers
and routers leave fields out, send null, or send the message in parts. Every request, repeated ones
too, takes its turn at the rate limiter.
"""

import json
import time
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import SecretStr

from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.errors import EndpointError, EndpointUnreachableError
from xrec.text.faults import OUTAGES, Faults
from xrec.text.model import Prompt, RawReply, ReplyFailure, Usage, about_tokens
from xrec.text.schema import strict_schema

_MOST_REFUSED = 8
"""So many prompts refused by an endpoint that has not answered one yet are no prompt's fault."""


class EndpointClient:
    """Asks the endpoint of `config`, in one event loop."""

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._config = config
        self._faults = Faults(config, key)
        per_minute, tokens = config.requests_per_minute, config.tokens_per_minute
        self._requests = AsyncLimiter(1, 60 / per_minute) if per_minute else None
        self._tokens = AsyncLimiter(tokens / 60, 1) if tokens else None
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

    async def reply(self, index: int, prompt: Prompt[Any], sampling: SamplingConfig) -> RawReply:
        """The reply to a prompt, or its failure; raises EndpointError if none can be had."""
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))
        try:
            return await self._asked(index, self._fields(prompt, sampling))
        except EndpointError as error:
            self._ended = error
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _asked(self, index: int, fields: dict[str, Any]) -> RawReply:
        words = "".join(message["content"] for message in fields["messages"])
        await self._take_tokens(about_tokens(words))
        started_at, num_requests = time.monotonic(), 1
        try:
            response = await self._client.chat.completions.with_raw_response.create(**fields)
            num_requests += response.retries_taken
            reply = read_answer(response.parse(), index, words, num_requests)
        except (openai.APIError, ValueError) as error:
            fault = self._faults.of(error)
            if isinstance(error, openai.APIError):
                num_requests += int(error.request.headers.get("x-stainless-retry-count", 0))
        else:
            self._replied_at = time.monotonic()
            await self._take_tokens(reply.usage.num_reply_tokens)
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

    async def _take_tokens(self, num_tokens: float) -> None:
        """Wait until so many tokens are within the rate; the limiter takes a second's at most."""
        while self._tokens is not None and num_tokens > 0:
            await self._tokens.acquire(min(num_tokens, self._tokens.max_rate))
            num_tokens -= self._tokens.max_rate

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
                "committed stays"
            )
        if self._replied_at == float("-inf"):
            self._num_refused += 1
        if self._num_refused >= _MOST_REFUSED:
            raise EndpointError(
                f"{url}: it refused the first {self._num_refused} prompts ({fault.message}); check "
                "model, and structured_output, sampling and extra, which some endpoints do not know"
            )


def read_answer(answer: object, index: int, words: str, num_requests: int) -> RawReply:
    """What the first choice says to a prompt of these words.

    Where the endpoint does not count tokens, four characters are taken for one. Raises ValueError
    if `answer` is no chat completion.
    """
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    text, usage = _text(message.content), getattr(answer, "usage", None)
    is_filtered = choice.finish_reason == "content_filter"
    refusal = message.refusal or ("by its content filter" if is_filtered else None)
    return RawReply(
        index,
        text,
        Usage(
            _count(getattr(usage, "prompt_tokens", None), words),
            _count(getattr(usage, "completion_tokens", None), text),
            num_requests,
        ),
        choice.finish_reason == "length",
        ReplyFailure("refused", str(refusal)) if refusal else None,
    )


def _text(content: object) -> str:
    """The text of a message; of one in parts those of text, without the model's thoughts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    raise ValueError(f"expected text in the message, found {type(content).__name__}")


def _count(value: object, text: str) -> int:
    return value if isinstance(value, int) and value >= 0 else len(text) // 4
