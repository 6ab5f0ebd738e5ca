"""Sends prompts to a language model and parses the replies.

`ask` retries a prompt once if its reply is invalid. An `Asker` also sends identical prompts only
once, keeps valid replies across restarts, and stops when its token budget is used up.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NoReturn

from xrec.config import SamplingConfig
from xrec.errors import BudgetError, EndpointError, Failure, StorageNotFoundError
from xrec.storage import Location, request_each
from xrec.text.messages import LanguageModel, Message, ObjectT, Prompt, Reply, Usage
from xrec.text.replies import parse_reply, strict_schema

_MAX_QUOTED_CHARACTERS = 2000
_MAX_REFUSALS = 8  # without any reply, after which the settings are to blame, not the prompts
_REPEATED = ("empty_reply", "cut_off", "invalid_json", "invalid_object", "failed_check")


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
    return Prompt(messages, prompt.schema, seed=1)


class Asker:
    """Sends prompts to `model`; several threads may use it.

    folder: keeps each valid reply as a file named after the hash of its prompt. A bulk run commits
        whole chunks, so without these files a kill would lose the replies of unfinished chunks.
    identity: plain JSON that identifies the model, on which replies depend besides the prompt.
    max_tokens: the number of prompt and reply tokens after which no more prompts are sent.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: SamplingConfig,
        folder: Location,
        *,
        identity: Mapping[str, Any],
        max_tokens: float = float("inf"),
    ):
        self._model, self._sampling, self._folder = model, sampling, folder
        self._identity = {**identity, "sampling": sampling.model_dump(mode="json")}
        self._max_tokens, self._num_spent = max_tokens, 0
        self._seen: set[str] = set()  # keys whose usage is counted and reported
        self._num_refused, self._has_replied = 0, False  # refused prompts count until a reply
        self._num_asking = 0  # calls of `ask` in progress
        self._changed = threading.Condition()

    def ask(self, prompts: Sequence[Prompt[ObjectT]]) -> list[Reply[ObjectT]]:
        """Return the reply to each prompt, in order.

        The usage of identical prompts is in the reply to the first one that this process asked; the
        others have none. Raises the errors of `LanguageModel.write`, EndpointError if the model
        refuses all of the first prompts, and BudgetError if the tokens are used up, but only after
        all prompts in progress have replies, which are kept.
        """
        keys = [self._key(prompt) for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        stored = request_each(lambda item: (item[0], self._read(*item)), distinct.items())
        replies = {key: reply for key, reply in stored if reply is not None}
        with self._changed:
            self._num_asking += 1
            new = distinct.keys() - self._seen
            self._seen |= new
            self._num_spent += sum(replies[key].usage.num_tokens for key in new & replies.keys())
            self._has_replied |= bool(replies)
        left = [key for key in distinct if key not in replies]
        try:
            for reply in ask(self, [distinct[key] for key in left], self._sampling):
                key = left[reply.index]
                replies[key] = reply
                if reply.failure is None:
                    record = {"raw": reply.raw, "usage": vars(reply.usage)}
                    self._file(key).write_bytes(_encoded(record))
        finally:
            with self._changed:
                self._num_asking -= 1
                self._changed.notify_all()
        if len(replies) < len(distinct):
            self._end()
        usage = {key: replies[key].usage for key in new}
        return [
            replace(replies[key], index=index, usage=usage.pop(key, Usage()))
            for index, key in enumerate(keys)
        ]

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel; takes no more prompts once the tokens are used up.

        Raises EndpointError if the model refuses all of the first prompts.
        """
        within = takewhile(lambda _: self._num_spent < self._max_tokens, prompts)
        for reply in self._model.write(within, sampling):
            with self._changed:
                self._num_spent += reply.usage.num_tokens
                self._count_refusal(reply.failure)
            yield reply

    def _count_refusal(self, failure: Failure | None) -> None:
        self._has_replied |= failure is None
        self._num_refused += failure is not None and failure.reason == "bad_request"
        if failure is not None and self._num_refused >= _MAX_REFUSALS and not self._has_replied:
            raise EndpointError(
                f"the language model refused all of its first {self._num_refused} prompts, the "
                f"last one with: {failure.message}; check model, structured_output, extra and "
                "temperature in its config, and rerun",
                code="all_refused",
                key="model",
                saw=self._num_refused,
            )

    def _end(self) -> NoReturn:
        """Wait for other calls, whose replies are already paid for, and raise BudgetError."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_asking)
        raise BudgetError(
            f"budget.tokens is used up: {self._max_tokens:,.0f} tokens were available, "
            f"{self._num_spent:,} were spent; raise the budget and rerun to continue; valid "
            "replies are kept",
            code="budget_used_up",
            key="budget.tokens",
            saw=self._num_spent,
        )

    def _key(self, prompt: Prompt[Any]) -> str:
        """Return 32 hex digits that identify a prompt, its schema, and the model and sampling."""
        schema = prompt.schema.model_json_schema()
        parts = {"model": self._identity, "messages": prompt.messages, "schema": schema}
        return hashlib.blake2b(_encoded(parts), digest_size=16).hexdigest()

    def _read(self, key: str, prompt: Prompt[ObjectT]) -> Reply[ObjectT] | None:
        """Return the stored reply, with index 0; None if there is none that fits the schema."""
        try:
            record = json.loads(self._file(key).read_bytes())
        except StorageNotFoundError:
            return None
        value = parse_reply(record["raw"], prompt.schema)
        if isinstance(value, Failure):
            return None
        return Reply(0, record["raw"], Usage(**record["usage"]), value=value)

    def _file(self, key: str) -> Location:
        return self._folder / key[:2] / f"{key}.json"


def _encoded(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text.encode(errors="surrogatepass")
