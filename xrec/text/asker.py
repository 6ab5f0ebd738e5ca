"""Asks a language model for objects: what is not valid is asked for again, once.

An `Asker` asks each prompt once: equal ones share a reply, and replies outlive the process.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xrec.config import SamplingConfig
from xrec.errors import BudgetError
from xrec.storage import request_each
from xrec.text.model import (
    LanguageModel,
    Message,
    ObjectT,
    Prompt,
    RawReply,
    Reply,
    ReplyFailure,
    Usage,
    about_tokens,
)
from xrec.text.reply_store import ReplyStore, prompt_key
from xrec.text.schema import parse_reply, strict_schema

_KEPT = frozenset(
    {"empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check", "refused"}
)
"""Failures that the model is to blame for. Others are the endpoint's, and pass."""


class Budget:
    """Says whether one more prompt may be asked; threads may use it at the same time.

    What is under way counts with its estimate, so what is spent in the end exceeds the budget only
    by what estimates were too low. All numbers are tokens, of prompts and replies together; `spent`
    is what the job spent before. Without `max_tokens` there is no limit.
    """

    def __init__(self, max_tokens: float | None = None, spent: int = 0):
        self._max_tokens = float("inf") if max_tokens is None else max_tokens
        self._spent, self._under_way = spent, 0
        self._settled = threading.Condition()

    def reserve(self, estimate: int, *, wait: bool = False) -> bool:
        """Whether a prompt of this estimate may be asked; it then is under way.

        wait: whether to wait for what others have under way, which may take less than it might.
        """
        with self._settled:
            while self._spent + self._under_way + estimate > self._max_tokens:
                if not (wait and self._under_way):
                    return False
                self._settled.wait()
            self._under_way += estimate
            return True

    def settle(self, estimate: int, num_tokens: int) -> None:
        """Note what a prompt that was under way took in the end."""
        with self._settled:
            self._under_way -= estimate
            self._spent += num_tokens
            self._settled.notify_all()

    def error(self) -> BudgetError:
        """The error that ends a job because nothing more may be asked."""
        return BudgetError(
            f"budget.tokens is used up: {self._spent:,} tokens are spent, and one more prompt "
            "would be too much; raise it and run again, what is committed stays",
            code="budget_used_up",
            key="budget.tokens",
            saw=self._spent,
        )


class Asker:
    """Asks `model`, and keeps its replies in `store`; threads may use it at the same time.

    identity: what the replies depend on beside the prompt, as plain JSON: which model.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        store: ReplyStore,
        *,
        identity: Mapping[str, Any],
        budget: Budget | None = None,
    ):
        self._model, self._sampling, self._store = model, sampling, store
        self._identity = {**identity, "sampling": sampling.model_dump(mode="json")}
        self._budget = budget or Budget()
        self._counted: set[str] = set()  # keys whose cost is in a reply that was given back
        self._settled: set[str] = set()  # keys whose cost is in the budget
        self._lock = threading.Lock()

    def ask(self, prompts: Sequence[Prompt[ObjectT]]) -> list[Reply[ObjectT]]:
        """The reply to each prompt, in their order.

        What a reply cost is in the first one of equal prompts that this process has seen, and in
        the others it is nothing. Raises BudgetError, once the prompts within the budget have their
        replies, and what `LanguageModel.write` raises.
        """
        keys = [prompt_key(self._identity, prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        replies = self._kept(distinct)
        left = {key: prompt for key, prompt in distinct.items() if key not in replies}
        while left:
            estimates = self._reserved(left)
            if not estimates:
                raise self._budget.error()
            replies |= self._replies({key: left.pop(key) for key in estimates}, estimates)
        return [
            replace(replies[key], index=index, usage=self._usage(key, replies[key]))
            for index, key in enumerate(keys)
        ]

    def _kept(self, distinct: Mapping[str, Prompt[ObjectT]]) -> dict[str, Reply[ObjectT]]:
        """The replies that are in the store; the budget counts what an earlier process paid."""
        found = request_each(
            lambda item: (item[0], self._store.read(item[0], item[1].schema)), distinct.items()
        )
        kept = {key: reply for key, reply in found if reply is not None}
        for key, reply in kept.items():
            if self._is_new(key, self._settled):
                self._budget.settle(0, reply.usage.num_tokens)
        return kept

    def _reserved(self, distinct: Mapping[str, Prompt[Any]]) -> dict[str, int]:
        """The estimates of the first prompts, as many as the budget allows.

        A reply is taken for as long as it may be. What the first ones really took may leave room
        for others.
        """
        estimates: dict[str, int] = {}
        for key, prompt in distinct.items():
            num_shown = sum(about_tokens(message.content) for message in prompt.messages)
            estimate = num_shown + self._sampling.max_tokens
            if not self._budget.reserve(estimate, wait=not estimates):
                break
            estimates[key] = estimate
        return estimates

    def _replies(
        self, distinct: Mapping[str, Prompt[ObjectT]], estimates: Mapping[str, int]
    ) -> dict[str, Reply[ObjectT]]:
        """Ask for all of them, keep what comes, and settle what it took."""
        keys, replies = list(distinct), {}
        try:
            for reply in ask(self._model, list(distinct.values()), self._sampling):
                key = keys[reply.index]
                replies[key] = reply
                self._is_new(key, self._settled)  # so no thread settles it again from the store
                self._budget.settle(estimates[key], reply.usage.num_tokens)
                if reply.failure is None or reply.failure.reason in _KEPT:
                    self._store.write(key, reply)
        finally:
            for key in estimates.keys() - replies.keys():
                self._budget.settle(estimates[key], 0)
        return replies

    def _usage(self, key: str, reply: Reply[Any]) -> Usage:
        return reply.usage if self._is_new(key, self._counted) else Usage()

    def _is_new(self, key: str, seen: set[str]) -> bool:
        """Whether the key was not in `seen`, to which it is added."""
        with self._lock:
            is_new = key not in seen
            seen.add(key)
            return is_new


_MOST_QUOTED = 2000
_ASKED_AGAIN = frozenset(
    {"empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check", "broken_response"}
)


def ask(
    model: LanguageModel, prompts: Sequence[Prompt[ObjectT]], sampling: SamplingConfig
) -> Iterator[Reply[ObjectT]]:
    """Yield one reply for each prompt, those that were asked for twice last.

    A reply that is no valid object is asked for once more, with what was wrong and another seed.
    Raises what `LanguageModel.write` raises.
    """
    again: list[Reply[ObjectT]] = []
    for raw in model.write(prompts, sampling):
        reply = _reply(raw, prompts[raw.index])
        if reply.failure is not None and reply.failure.reason in _ASKED_AGAIN:
            again.append(reply)
        else:
            yield reply
    if not again:
        return
    second = sampling.model_copy(update={"seed": sampling.seed + 1})
    for raw in model.write([_corrected(prompts[first.index], first) for first in again], second):
        first = again[raw.index]
        reply = _reply(raw, prompts[first.index])
        yield replace(reply, index=first.index, usage=first.usage + reply.usage)


def _reply(raw: RawReply, prompt: Prompt[ObjectT]) -> Reply[ObjectT]:
    found = raw.failure or parse_reply(raw.text, prompt.schema, is_cut=raw.is_cut)
    if not isinstance(found, ReplyFailure) and (problem := prompt.check(found)) is not None:
        found = ReplyFailure("failed_check", problem)
    if isinstance(found, ReplyFailure):
        return Reply(raw.index, None, found, raw.text, raw.usage)
    return Reply(raw.index, found, None, raw.text, raw.usage)


def _corrected(prompt: Prompt[ObjectT], reply: Reply[ObjectT]) -> Prompt[ObjectT]:
    """The prompt that shows the model what it wrote, and says what is wrong with it."""
    assert reply.failure is not None
    if reply.failure.reason == "broken_response":  # which the model did not write
        return prompt
    is_cut = reply.failure.reason == "cut_off"
    what = "it is too long" if is_cut else reply.failure.message
    request = (
        f"This cannot be used: {what}. Answer once more, briefly, with one JSON object and nothing "
        f"else. It must fit this schema: "
        f"{json.dumps(strict_schema(prompt.schema), ensure_ascii=False)}"
    )
    said = Message("assistant", reply.raw[:_MOST_QUOTED] or "{}")
    return Prompt((*prompt.messages, said, Message("user", request)), prompt.schema)
