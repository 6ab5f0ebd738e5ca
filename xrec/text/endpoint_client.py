"""Asks an endpoint for one reply until it is there, it has failed, or nothing can succeed.

The openai client tries again and waits; it does not check the form of an answer, in which servers
and routers leave fields out, send null, or send the message in parts. Every request, repeated ones
too, takes its turn at the rate limiter.
"""

import json
import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class EndpointAnswer:
    """The text of an answer, and what is said about it.

    is_cut: whether the text ended because it reached the largest length.
    refusal: why the model or the endpoint's filter does not want to answer, if it does not.
    num_prompt_tokens, num_reply_tokens: what the endpoint counted; None if it did not count.
    """

    text: str
    is_cut: bool
    refusal: str | None
    num_prompt_tokens: int | None
    num_reply_tokens: int | None


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
            answer = read_answer(response.parse())
        except (openai.APIError, ValueError) as error:
            fault = self._faults.of(error)
            if isinstance(error, openai.APIError):
                num_requests += int(error.request.headers.get("x-stainless-retry-count", 0))
        else:
            return await self._received(index, answer, words, num_requests)
        # The error is not chained: its request has the key among its headers.
        if isinstance(fault, EndpointError):
            raise fault
        self._check_alive(fault, started_at)
        return RawReply(index, "", Usage(num_requests=num_requests), failure=fault)

    async def _received(
        self, index: int, answer: EndpointAnswer, words: str, num_requests: int
    ) -> RawReply:
        """The reply with what the endpoint counted, or a token for four characters."""
        self._replied_at = time.monotonic()
        shown, said = answer.num_prompt_tokens, answer.num_reply_tokens
        usage = Usage(
            len(words) // 4 if shown is None else shown,
            len(answer.text) // 4 if said is None else said,
            num_requests,
        )
        await self._take_tokens(usage.num_reply_tokens)
        failure = ReplyFailure("refused", answer.refusal) if answer.refusal else None
        return RawReply(index, answer.text, usage, answer.is_cut, failure)

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
        """The body of a request."""
        schema = strict_schema(prompt.schema, with_lengths=self._config.bounds_strings)
        name = prompt.schema.__name__
        messages = [{"role": each.role, "content": each.content} for each in prompt.messages]
        fields: dict[str, Any] = {"model": self._config.model, "messages": messages}
        match self._config.structured_output:
            case "json_schema":
                fields["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": name, "schema": schema, "strict": True},
                }
            case "json_object":
                fields["response_format"] = {"type": "json_object"}
        if self._config.structured_output != "json_schema":
            messages[-1]["content"] += (
                "\n\nAnswer with one JSON object and nothing else. It must fit this schema: "
                + json.dumps(schema, ensure_ascii=False)
            )
        fields[self._config.length_parameter] = sampling.max_tokens
        fields["seed"] = sampling.seed
        if sampling.temperature is not None:
            fields["temperature"] = sampling.temperature
        return {**fields, "extra_body": dict(self._config.extra)}

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
                "model, and structured_output, length_parameter, sampling and extra, which some "
                "endpoints do not know"
            )


def read_answer(answer: object) -> EndpointAnswer:
    """What the first choice says; raises ValueError if `answer` is no chat completion."""
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    refusal = "by its content filter" if choice.finish_reason == "content_filter" else None
    usage = getattr(answer, "usage", None)
    return EndpointAnswer(
        _text(message.content),
        choice.finish_reason == "length",
        str(message.refusal) if message.refusal else refusal,
        _count(getattr(usage, "prompt_tokens", None)),
        _count(getattr(usage, "completion_tokens", None)),
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


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
