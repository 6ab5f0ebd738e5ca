"""Asks an endpoint for one reply until it is there, it has failed, or nothing can succeed.

Each prompt holds one of `concurrency` places while it is asked, waits and is asked again, so an
endpoint in trouble sees fewer requests and not more. Every request, repeated ones too, waits for
its turn at the rate limiter. A `Retry-After` holds all of them back.
"""

import asyncio
import json
import logging
import random
import time
from dataclasses import dataclass
from typing import Any

import openai
from pydantic import SecretStr

from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.errors import EndpointError, EndpointUnreachableError
from xrec.text.endpoint_answer import EndpointAnswer, read_answer
from xrec.text.faults import REQUEST_ERRORS, Faults, TryAgain
from xrec.text.limiter import RateLimiter
from xrec.text.model import Prompt, RawReply, ReplyFailure, Usage
from xrec.text.schema import strict_schema
from xrec.text.token_estimate import TokenEstimate

logger = logging.getLogger("xrec")

_LONGEST_WAIT_SECONDS = 60.0
_UNREACHED_SECONDS = 30.0
_MOST_REFUSED = 8
"""So many prompts refused by an endpoint that has not answered one yet are no prompt's fault."""


@dataclass
class _Asked:
    """One prompt under way.

    num_estimated: the tokens that its latest request was admitted with.
    fault: why its latest request that was not cut short by the deadline has to be tried again.
    """

    index: int
    fields: dict[str, Any]
    num_characters: int
    max_tokens: int
    started_at: float = 0.0
    num_requests: int = 0
    num_estimated: float = 0.0
    fault: TryAgain | None = None


class PatientClient:
    """Asks the endpoint of `config`, in one event loop."""

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._config = config
        self._faults = Faults(config, key)
        self._limiter = RateLimiter(config.requests_per_minute, config.tokens_per_minute)
        self._estimate = TokenEstimate()
        self._places = asyncio.Semaphore(config.concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value() if key else "none",
            base_url=config.base_url,
            max_retries=0,  # the client's own would pass by the limiter
            timeout=config.timeout_seconds,
        )
        self._replied_at = float("-inf")
        self._was_reached = False  # whether any request had an answer, if only a refusal
        self._num_refused = 0  # prompts refused before the first reply
        self._ended: EndpointError | None = None  # after which nothing is asked any more

    async def reply(self, index: int, prompt: Prompt[Any], sampling: SamplingConfig) -> RawReply:
        """The reply to a prompt, or its failure; raises EndpointError if none can be had."""
        fields = self._fields(prompt, sampling)
        num_characters = sum(len(message["content"]) for message in fields["messages"])
        asked = _Asked(index, fields, num_characters, sampling.max_tokens)
        async with self._places:
            try:
                return await self._asked(asked)
            except EndpointError as error:
                self._ended = error
                raise

    async def _asked(self, asked: _Asked) -> RawReply:
        await self._admit(asked)
        asked.started_at = time.monotonic()
        while True:
            if self._ended is not None:
                raise type(self._ended)(str(self._ended))
            try:
                return self._received(asked, await self._request(asked))
            except REQUEST_ERRORS as error:
                fault = self._faults.of(error)
                self._was_reached |= isinstance(error, openai.APIStatusError)
                timed_out = isinstance(error, TimeoutError)
            # The error is not chained: its request has the key among its headers.
            if isinstance(fault, EndpointError):
                raise fault
            if isinstance(fault, ReplyFailure):
                return self._refused(asked, fault)
            if not (asked.fault and self._is_cut_short(asked, timed_out)):
                asked.fault = fault
            if not await self._may_try_again(asked, asked.fault):
                return _failed(asked, asked.fault.failure)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

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
        if sampling.top_p < 1:
            fields["top_p"] = sampling.top_p
        return {**fields, "extra_body": dict(self._config.extra)}

    async def _admit(self, asked: _Asked) -> None:
        estimate = self._estimate.of(asked.num_characters, asked.max_tokens)
        asked.num_estimated = estimate.num_tokens
        await self._limiter.admit(asked.num_estimated)

    async def _request(self, asked: _Asked) -> EndpointAnswer:
        """The endpoint's answer, within the time that is left for the prompt."""
        asked.num_requests += 1
        left = asked.started_at + self._config.deadline_seconds - time.monotonic()
        async with asyncio.timeout(min(self._config.timeout_seconds, left)):
            answer = await self._client.chat.completions.create(**asked.fields)
        return read_answer(answer)

    def _seconds_left(self, asked: _Asked) -> float:
        return asked.started_at + self._limit_seconds - time.monotonic()

    def _is_cut_short(self, asked: _Asked, timed_out: bool) -> bool:
        """Whether a request ended for want of time for its prompt, which says nothing new."""
        over = time.monotonic() >= asked.started_at + self._config.deadline_seconds
        return timed_out and over

    @property
    def _limit_seconds(self) -> float:
        """How long a prompt is tried; less while nobody knows whether there is an endpoint."""
        deadline = self._config.deadline_seconds
        return deadline if self._was_reached else min(deadline, _UNREACHED_SECONDS)

    def _received(self, asked: _Asked, answer: EndpointAnswer) -> RawReply:
        self._was_reached, self._replied_at = True, time.monotonic()
        usage = _usage(answer, asked)
        self._estimate.learn(asked.num_characters, usage.num_prompt_tokens, usage.num_reply_tokens)
        self._limiter.correct(usage.num_tokens - asked.num_estimated)
        failure = ReplyFailure("refused", answer.refusal) if answer.refusal else None
        return RawReply(asked.index, answer.text, usage, answer.is_cut, failure)

    def _refused(self, asked: _Asked, failure: ReplyFailure) -> RawReply:
        """The failure of a prompt; raises EndpointError if the endpoint refuses whatever comes."""
        if self._replied_at == float("-inf"):
            self._num_refused += 1
        if self._num_refused >= _MOST_REFUSED:
            raise EndpointError(
                f"{self._config.base_url}: it refused the first {self._num_refused} prompts "
                f"({failure.message}); check model, and structured_output, length_parameter, "
                "sampling and extra, which some endpoints do not know"
            )
        return _failed(asked, failure)

    async def _may_try_again(self, asked: _Asked, fault: TryAgain) -> bool:
        """Wait until the next request may be sent; returns False if the prompt has no time left.

        Raises EndpointUnreachableError if nobody gets a reply.
        """
        wait = self._wait_seconds(asked, fault)
        if fault.failure.reason == "rate_limited":
            self._limiter.correct(-asked.num_estimated)  # it took no tokens
        if wait < self._seconds_left(asked):
            logger.info("%s; the next try is in %.1f s", fault.failure.message, wait)
            if fault.is_for_all:
                self._limiter.pause(fault.wait_seconds or 0.0)
            await asyncio.sleep(wait)
            await self._admit(asked)
            if self._seconds_left(asked) > 0:
                return True
        await self._check_alive(asked, fault)
        return False

    def _wait_seconds(self, asked: _Asked, fault: TryAgain) -> float:
        """What the endpoint wishes, or twice as long each time; never the same for all."""
        if fault.wait_seconds is not None:
            return fault.wait_seconds + random.uniform(0.0, min(1.0, fault.wait_seconds / 4))
        first = self._config.first_wait_seconds
        longest = min(first * 2.0 ** min(asked.num_requests - 1, 32), _LONGEST_WAIT_SECONDS)
        return random.uniform(longest / 2, longest)

    async def _check_alive(self, asked: _Asked, fault: TryAgain) -> None:
        """Raise EndpointUnreachableError unless something else than this prompt gets an answer."""
        url, limit = self._config.base_url, self._limit_seconds
        if (fault.wait_seconds or 0.0) >= limit:
            raise EndpointUnreachableError(
                f"{url}: it asks to be left alone for {fault.wait_seconds:g} s "
                f"({fault.failure.message}), longer than the {limit:g} s of deadline_seconds; run "
                "again later, what is committed stays"
            )
        if self._replied_at >= asked.started_at:
            return
        if fault.failure.reason != "rate_limited" and await self._lists_models():
            return
        raise EndpointUnreachableError(
            f"{url}: no reply for {limit:g} s, {asked.num_requests} requests of one prompt, the "
            f"last one: {fault.failure.message}; see to base_url and the endpoint, and run again, "
            "what is committed stays"
        )

    async def _lists_models(self) -> bool:
        """Whether the endpoint answers a small question that no prompt has a part in."""
        await self._limiter.admit(0)
        try:
            await self._client.models.list(timeout=self._config.timeout_seconds)
        except openai.APIStatusError as error:
            return error.status_code < 500 and error.status_code != 429
        except REQUEST_ERRORS:
            return False
        return True


def _usage(answer: EndpointAnswer, asked: _Asked) -> Usage:
    """What the endpoint counted; four characters are taken for a token where it did not count."""
    num_prompt_tokens, num_reply_tokens = answer.num_prompt_tokens, answer.num_reply_tokens
    if num_prompt_tokens is None:
        num_prompt_tokens = asked.num_characters // 4
    if num_reply_tokens is None:
        num_reply_tokens = len(answer.text) // 4
    return Usage(num_prompt_tokens, num_reply_tokens, asked.num_requests)


def _failed(asked: _Asked, failure: ReplyFailure) -> RawReply:
    return RawReply(asked.index, "", Usage(num_requests=asked.num_requests), failure=failure)
