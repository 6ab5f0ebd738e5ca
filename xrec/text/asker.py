"""Sends prompts to a language model and parses the replies.

`ask` retries a prompt once if its reply is invalid. An `Asker` also sends identical prompts only
once, keeps their replies across restarts, and stops when its token budget is used up.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NoReturn

from xrec.config import SamplingConfig
from xrec.errors import BudgetError
from xrec.storage import request_each
from xrec.text.messages import (
    LanguageModel,
    Message,
    ObjectT,
    Prompt,
    Reply,
    ReplyFailure,
    Usage,
)
from xrec.text.replies import parse_reply, strict_schema
from xrec.text.reply_store import ReplyStore, prompt_key

_MAX_QUOTED_CHARACTERS = 2000
_INVALID = frozenset({"empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check"})
_REPEATED = _INVALID | {"broken_response"}
# Failures that the model causes; those that the endpoint causes are temporary.
_KEPT = _INVALID | {"refused"}


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
        if reply.failure is not None and reply.failure.reason in _REPEATED:
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
    if not isinstance(parsed, ReplyFailure) and (problem := prompt.check(parsed)) is not None:
        parsed = ReplyFailure("failed_check", problem)
    if isinstance(parsed, ReplyFailure):
        return replace(reply, failure=parsed)
    return replace(reply, value=parsed)


def _correct(prompt: Prompt[ObjectT], reply: Reply[ObjectT]) -> Prompt[ObjectT]:
    """Return the prompt with another seed, the model's reply, and a request to correct it."""
    assert reply.failure is not None
    if reply.failure.reason == "broken_response":  # the model never replied
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
    return Prompt(messages, prompt.schema, seed=1)


class _Metered:
    """A `LanguageModel` that stops taking prompts once its tokens are used up."""

    def __init__(self, model: LanguageModel, max_tokens: float):
        self._model, self.max_tokens, self.num_spent = model, max_tokens, 0
        self._lock = threading.Lock()

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel; prompts that are already sent still get their replies."""
        within = takewhile(lambda _: self.num_spent < self.max_tokens, prompts)
        for reply in self._model.write(within, sampling):
            self.spend(reply)
            yield reply

    def spend(self, reply: Reply[Any]) -> None:
        """Count the tokens that a reply cost."""
        with self._lock:
            self.num_spent += reply.usage.num_tokens


class Asker:
    """Sends prompts to `model` and keeps its replies in `store`; several threads may use it.

    identity: plain JSON that identifies the model, on which replies depend besides the prompt.
    max_tokens: the number of prompt and reply tokens after which no more prompts are sent.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        store: ReplyStore,
        *,
        identity: Mapping[str, Any],
        max_tokens: float = float("inf"),
    ):
        self._model = _Metered(model, max_tokens)
        self._sampling, self._store = sampling, store
        self._identity = {**identity, "sampling": sampling.model_dump(mode="json")}
        self._spent: set[str] = set()  # keys whose usage the model has counted
        self._reported: set[str] = set()  # keys whose usage is in a returned reply
        self._num_asking = 0  # calls of `ask` in progress
        self._changed = threading.Condition()

    def ask(self, prompts: Sequence[Prompt[ObjectT]]) -> list[Reply[ObjectT]]:
        """Return the reply to each prompt, in order.

        The usage of identical prompts is in the first reply that this process returns; the others
        have none. Raises the errors of `LanguageModel.write`, and BudgetError if the tokens are
        used up, but only after all prompts in progress have replies, which are kept.
        """
        keys = [prompt_key(self._identity, prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        stored = request_each(
            lambda item: (item[0], self._store.read(item[0], item[1].schema)), distinct.items()
        )
        replies = {key: reply for key, reply in stored if reply is not None}
        with self._changed:
            self._num_asking += 1
            for key in replies.keys() - self._spent:
                self._model.spend(replies[key])
            self._spent |= distinct.keys()
        try:
            left = [key for key in distinct if key not in replies]
            to_ask = [distinct[key] for key in left]
            for reply in ask(self._model, to_ask, self._sampling):
                key = left[reply.index]
                replies[key] = reply
                if reply.failure is None or reply.failure.reason in _KEPT:
                    self._store.write(key, reply)
        finally:
            with self._changed:
                self._num_asking -= 1
                self._changed.notify_all()
        if len(replies) < len(distinct):
            self._end()
        return [
            replace(replies[key], index=index, usage=self._report(key, replies[key].usage))
            for index, key in enumerate(keys)
        ]

    def _end(self) -> NoReturn:
        """Wait for other calls, whose replies are already paid for, and raise BudgetError."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_asking)
        spent, most = self._model.num_spent, self._model.max_tokens
        raise BudgetError(
            f"budget.tokens is used up: {most:,.0f} tokens were available, {spent:,} were spent; "
            "raise the budget and rerun to continue; valid replies are kept",
            code="budget_used_up",
            key="budget.tokens",
            saw=spent,
        )

    def _report(self, key: str, usage: Usage) -> Usage:
        with self._changed:
            is_new = key not in self._reported
            self._reported.add(key)
        return usage if is_new else Usage()
