"""Asks each prompt once: equal ones share a reply, and replies outlive the process."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from xrec.config.text import SamplingConfig
from xrec.storage import request_each
from xrec.text.ask import ask
from xrec.text.budget import Budget, Spent
from xrec.text.model import LanguageModel, ObjectT, Prompt, Reply, Usage
from xrec.text.reply_store import ReplyStore, prompt_key
from xrec.text.token_estimate import TokenEstimate

_KEPT = frozenset({"empty_reply", "cut_off", "invalid_json", "invalid_object", "refused"})
"""Failures that the model is to blame for. Others are the endpoint's, and pass."""


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
        self._estimate = TokenEstimate()
        self._under_way: dict[str, threading.Event] = {}
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
        replies: dict[str, Reply[ObjectT]] = {}
        with self._claimed(distinct) as mine:
            replies |= self._known({key: distinct[key] for key in mine})
            replies |= self._asked({key: distinct[key] for key in mine if key not in replies})
        for key in distinct.keys() - set(mine):
            replies |= self._of_another_thread(key, distinct[key])
        return [
            replace(replies[key], index=index, usage=self._usage(key, replies[key]))
            for index, key in enumerate(keys)
        ]

    def count_anew(self) -> None:
        """From now on each reply costs what it did when it is asked for first, kept or not.

        So what a piece of work costs does not depend on what was asked before it, or in another
        process. The budget counts none of them twice.
        """
        with self._lock:
            self._counted.clear()

    @contextmanager
    def _claimed(self, distinct: Mapping[str, Prompt[Any]]) -> Iterator[list[str]]:
        """The keys that no other thread asks at the moment; the others are to wait for these."""
        with self._lock:
            mine = [key for key in distinct if key not in self._under_way]
            self._under_way |= {key: threading.Event() for key in mine}
        try:
            yield mine
        finally:
            with self._lock:
                ended = [self._under_way.pop(key) for key in mine]
            for event in ended:
                event.set()

    def _of_another_thread(self, key: str, prompt: Prompt[ObjectT]) -> dict[str, Reply[ObjectT]]:
        with self._lock:
            event = self._under_way.get(key)
        if event is not None:
            event.wait()
        known = self._known({key: prompt})
        return known or self._asked({key: prompt})

    def _known(self, distinct: Mapping[str, Prompt[ObjectT]]) -> dict[str, Reply[ObjectT]]:
        found = request_each(
            lambda item: (item[0], self._store.read(item[0], item[1].schema)), distinct.items()
        )
        known = {key: reply for key, reply in found if reply is not None}
        for key in self._newly_settled(known):
            self._budget.settle(Spent(), known[key].usage)  # an earlier process paid it
        return known

    def _asked(self, distinct: Mapping[str, Prompt[ObjectT]]) -> dict[str, Reply[ObjectT]]:
        """The replies of the model; raises BudgetError after those that the budget allows.

        If not all fit into the budget by their estimates, those that do are asked first: their
        replies make the estimates better.
        """
        replies: dict[str, Reply[ObjectT]] = {}
        left = dict(distinct)
        while left:
            estimates = self._reserved(left)
            if not estimates:
                raise self._budget.error()
            replies |= self._replies({key: left.pop(key) for key in estimates}, estimates)
        return replies

    def _reserved(self, distinct: Mapping[str, Prompt[Any]]) -> dict[str, Spent]:
        """The estimates of the first prompts, as many as the budget allows."""
        estimates: dict[str, Spent] = {}
        for key, prompt in distinct.items():
            estimate = self._estimate.of(_num_characters(prompt), self._sampling.max_tokens)
            if not self._budget.reserve(estimate):
                break
            estimates[key] = estimate
        return estimates

    def _replies(
        self, distinct: Mapping[str, Prompt[ObjectT]], estimates: Mapping[str, Spent]
    ) -> dict[str, Reply[ObjectT]]:
        """Ask for all of them, keep what comes, and settle what it took."""
        keys, replies = list(distinct), {}
        try:
            for reply in ask(self._model, list(distinct.values()), self._sampling):
                key = keys[reply.index]
                replies[key] = reply
                with self._lock:  # before it is stored, where other threads find it
                    self._settled.add(key)
                self._settle(distinct[key], estimates[key], reply)
                if reply.failure is None or reply.failure.reason in _KEPT:
                    self._store.write(key, reply)
        finally:
            for key in estimates.keys() - replies.keys():
                self._budget.settle(estimates[key], Usage())
        return replies

    def _newly_settled(self, keys: Iterable[str]) -> set[str]:
        """Mark the keys as settled; returns those that were not."""
        with self._lock:
            new = set(keys) - self._settled
            self._settled |= new
            return new

    def _settle(self, prompt: Prompt[Any], estimate: Spent, reply: Reply[Any]) -> None:
        usage = reply.usage
        self._budget.settle(estimate, usage)
        if usage.num_tokens:
            self._estimate.learn(
                _num_characters(prompt), usage.num_prompt_tokens, usage.num_reply_tokens
            )

    def _usage(self, key: str, reply: Reply[Any]) -> Usage:
        with self._lock:
            if key in self._counted:
                return Usage()
            self._counted.add(key)
            return reply.usage


def _num_characters(prompt: Prompt[Any]) -> int:
    return sum(len(message.content) for message in prompt.messages)
