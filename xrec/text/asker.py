"""Loads a language model, sends it prompts, and parses the replies.

`ask` retries a prompt once if its reply is invalid. An `Asker` also sends no prompt whose reply is
stored, and stops when its token budget is used up.
"""

import itertools
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from xrec.config import (
    Device,
    EndpointConfig,
    EndpointModelConfig,
    EngineModelConfig,
    JobConfig,
    SamplingConfig,
    StorageConfig,
    identity_of,
)
from xrec.errors import BudgetError, ConfigError, EndpointError, Failure
from xrec.llm.source import known_fingerprint, public_name
from xrec.text.messages import (
    LanguageModel,
    Message,
    ObjectT,
    Prompt,
    Reply,
    Usage,
    about_tokens,
    parse_reply,
    strict_schema,
)
from xrec.text.reply_store import ReplyStore, batches_of, open_replies

_MAX_QUOTED_CHARACTERS = 2000
_MAX_REFUSALS = 8  # without any reply, after which the settings are to blame, not the prompts
_REPEATED = ("empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check")

ModelConfig = EngineModelConfig | EndpointModelConfig


def endpoint_key(config: EndpointConfig, environment: Mapping[str, str]) -> SecretStr | None:
    """Return the endpoint's key, or None if `api_key_variable` is null.

    Raises ConfigError if the environment variable is unset or empty.
    """
    variable = config.api_key_variable
    if variable is None:
        return None
    if not (key := environment.get(variable, "").strip()):
        raise ConfigError(
            f"the environment variable {variable} is not set; set it to the key for "
            f"{config.base_url}, or set api_key_variable to null if no key is needed",
            code="key_missing",
            key=variable,
        )
    return SecretStr(key)


def load_language_model(
    config: ModelConfig,
    *,
    job: JobConfig | None = None,
    device: Device = "auto",
    num_threads: int = 1,
    key: SecretStr | None = None,
) -> LanguageModel:
    """Load a language model into this process; raises ModelError if that fails.

    job: whose workspace and storage are used. device, num_threads: an engine's device, and the
        number of torch threads. key: the endpoint's key (`endpoint_key`).
    """
    if isinstance(config, EndpointModelConfig):
        from xrec.text.endpoint import Endpoint, EndpointModel  # engines do not need openai

        batches = None if job is None else batches_of(job)
        return EndpointModel(config, Endpoint(config, key, batches))
    from xrec.text.engine_model import load_engine_model  # endpoints do not need torch

    storage = StorageConfig() if job is None else job.storage
    return load_engine_model(config, storage, device, num_threads)


def model_identity(config: ModelConfig, storage: StorageConfig | None = None) -> dict[str, Any]:
    """Return the settings that replies depend on, with the fingerprint of an engine's weights.

    The weights' name takes its place if they are not on disk.
    """
    settings = identity_of(config)
    if isinstance(config, EndpointModelConfig):
        return settings
    name = f"{public_name(config.llm.model)}@{config.llm.revision}".removesuffix("@None")
    fingerprint = known_fingerprint(config.llm, storage or StorageConfig(), download=False)
    return {**settings, "base_model": fingerprint or name}


def ask(
    model: LanguageModel, prompts: Sequence[Prompt[ObjectT]], sampling: SamplingConfig
) -> Iterator[Reply[ObjectT]]:
    """Yield one reply per prompt; those that took a second attempt come last.

    The second attempt shows the model what is wrong with its reply, and uses another seed. Raises
    the errors of `LanguageModel.write`.
    """
    invalid: list[Reply[ObjectT]] = []
    for raw in model.write(prompts, sampling):
        reply = _parse(raw, prompts[raw.index])
        if reply.failure and reply.failure.reason in (*_REPEATED, "broken_response"):
            invalid.append(reply)
        else:
            yield reply
    corrected = [_correct(prompts[first.index], first) for first in invalid]
    for raw in model.write(corrected, sampling) if invalid else ():
        first = invalid[raw.index]
        reply = _parse(raw, prompts[first.index])
        yield replace(reply, index=first.index, usage=first.usage + reply.usage)


def _parse(reply: Reply[Any], prompt: Prompt[ObjectT]) -> Reply[ObjectT]:
    parsed = reply.failure or parse_reply(reply.raw, prompt.schema, is_cut=reply.is_cut)
    if not isinstance(parsed, Failure) and (problem := prompt.check(parsed)) is not None:
        parsed = Failure("failed_check", problem)
    if isinstance(parsed, Failure):
        return replace(reply, failure=parsed)
    return replace(reply, value=parsed)


def _correct(prompt: Prompt[ObjectT], reply: Reply[ObjectT]) -> Prompt[ObjectT]:
    """Return the prompt with another seed, the model's reply, and a request to correct it."""
    assert reply.failure is not None
    if reply.failure.reason not in _REPEATED:  # the model never replied
        return replace(prompt, seed=1)
    is_cut = reply.failure.reason == "cut_off"
    problem = "it is too long" if is_cut else reply.failure.message
    schema = json.dumps(strict_schema(prompt.schema), ensure_ascii=False)
    request = (
        f"This cannot be used: {problem}. Answer once more, briefly, with one JSON object and "
        f"nothing else. It must fit this schema: {schema}"
    )
    answer = Message("assistant", reply.raw[:_MAX_QUOTED_CHARACTERS] or "{}")
    messages = (*prompt.messages, answer, Message("user", request))
    return Prompt(messages, prompt.schema, seed=1, user_ids=prompt.user_ids)


class Asker:
    """Sends prompts to `model`, unless `replies` has their replies; several threads may use it.

    max_tokens: the number of prompt and reply tokens that may be spent. A prompt is only sent if
        the most that it and those in progress may cost is left. usage: what was spent.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        replies: ReplyStore,
        max_tokens: float = float("inf"),
    ):
        self._model, self._sampling, self.replies = model, sampling, replies
        self._max_tokens, self.usage, self._num_reserved = max_tokens, Usage(), 0
        self._num_refused, self._has_replied = 0, False  # refused prompts count until a reply
        self._num_asking = 0  # calls of `ask` in progress
        self._changed = threading.Condition()

    def ask(self, prompts: Sequence[Prompt[ObjectT]]) -> list[Reply[ObjectT]]:
        """Return the reply to each prompt, in order.

        Of equal prompts, one is sent, and the replies to the others have no usage. Raises the
        errors of `LanguageModel.write`, EndpointError if the model refuses all of the first
        prompts, and BudgetError if the tokens are used up, but only after all prompts in progress
        have replies, which are kept.
        """
        with self._changed:
            self._num_asking += 1
        try:
            replies = sorted(ask(self, prompts, self._sampling), key=lambda reply: reply.index)
        finally:
            with self._changed:
                self._num_asking -= 1
                self._changed.notify_all()
            self.replies.flush()
        if len(replies) == len(prompts):
            return replies
        with self._changed:  # the replies that others wait for are already paid for
            self._changed.wait_for(lambda: not self._num_asking)
        raise BudgetError(
            f"budget.tokens is used up: {self._max_tokens:,.0f} tokens were available, "
            f"{self.usage.num_tokens:,} were spent; raise the budget and rerun to continue; "
            "replies are kept",
            code="budget_used_up",
            key="budget.tokens",
            saw=self.usage.num_tokens,
        )

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel; takes no more prompts once the tokens are used up.

        Raises EndpointError if the model refuses all of the first prompts.
        """
        claimed: dict[int, tuple[int, str, Prompt[Any], int]] = {}  # by the index at the model
        numbers = itertools.count()
        known: list[tuple[int, Future[Reply[Any]], bool]] = []  # is it stored?

        def unknown() -> Iterator[Prompt[Any]]:
            for index, prompt in enumerate(prompts):
                schema = prompt.schema.model_json_schema()
                key = self.replies.key(prompt.messages, schema, prompt.seed)
                is_over = self.usage.num_tokens + self._num_reserved >= self._max_tokens
                future = self.replies.find(key) if is_over else self.replies.claim(key)
                if future is not None:
                    known.append((index, future, is_stored := future.done()))
                    self._pay(future.result().usage if is_stored else Usage())
                elif not is_over:
                    words = sum(about_tokens(message.content) for message in prompt.messages)
                    most = words + sampling.max_tokens
                    self._pay(Usage(), reserved=most)
                    claimed[next(numbers)] = index, key, prompt, most
                    yield prompt

        try:
            for reply in self._model.write(unknown(), sampling):
                index, key, prompt, most = claimed.pop(reply.index)
                self._pay(reply.usage, reserved=-most)
                self.replies.settle(key, prompt.user_ids, reply)
                self._count_refusal(reply.failure)
                yield replace(reply, index=index)
        except BaseException as error:
            for _, key, _, most in claimed.values():
                self.replies.settle(key, (), error)
                self._pay(Usage(), reserved=-most)
            raise
        for index, future, is_stored in known:
            reply = future.result()
            self._has_replied |= reply.failure is None
            yield replace(reply, index=index, usage=reply.usage if is_stored else Usage())

    def _pay(self, usage: Usage, reserved: int = 0) -> None:
        with self._changed:
            self.usage += usage
            self._num_reserved += reserved

    def _count_refusal(self, failure: Failure | None) -> None:
        with self._changed:
            self._has_replied |= failure is None
            self._num_refused += failure is not None and failure.reason == "bad_request"
            is_refused = self._num_refused >= _MAX_REFUSALS and not self._has_replied
        if failure is not None and is_refused:
            raise EndpointError(
                f"the language model refused all of its first {self._num_refused} prompts, the "
                f"last one with: {failure.message}; check model, structured_output, extra and "
                "temperature in its config, and rerun",
                code="all_refused",
                key="model",
                saw=self._num_refused,
            )


def make_asker(
    job: JobConfig,
    config: ModelConfig,
    model: LanguageModel,
    *,
    run: str,
    attempt: int = 0,
    max_tokens: float = float("inf"),
) -> Asker:
    """Return what asks `model`, with the replies that the job's workspace has of it.

    run, attempt: see `ReplyStore`; max_tokens: see `Asker`.
    """
    if isinstance(config, EndpointModelConfig):
        at_once = config.concurrency
    else:
        at_once = config.engine.max_rows
    identity = model_identity(config, job.storage)
    replies = open_replies(job, identity, run=run, at_once=at_once, attempt=attempt)
    return Asker(model, config, replies, max_tokens)
