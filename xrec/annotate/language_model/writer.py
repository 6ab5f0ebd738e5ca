"""The annotator itself, as an actor has it."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from xrec.annotate.language_model.data import RowData
from xrec.annotate.language_model.replies import (
    COPIES_EXAMPLE,
    Kind,
    ReplyLimits,
    item_text,
    pair_text,
    user_text,
)
from xrec.annotate.report import repeats_verbatim
from xrec.annotate.rows import (
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    UserInput,
    UserText,
    Written,
)
from xrec.text import Asker, Message, Prompt, Reply, Usage
from xrec.text.prompt_file import PromptFile

ReplyT = TypeVar("ReplyT", bound=BaseModel)
TextT = TypeVar("TextT", ItemText, UserText, PairText)


class Prompts:
    """Makes the conversation of each row; a reply has the length of `limits` at most."""

    def __init__(
        self,
        files: dict[Kind, PromptFile],
        data: RowData,
        limits: ReplyLimits,
        *,
        domain: str,
        language: str,
    ):
        self._files, self._data, self.limits, self._domain = files, data, limits, domain
        self._values = {"language": language, "max_aspects": str(limits.num_aspects)}

    def item(self, row: ItemInput) -> tuple[Message, ...]:
        """What asks for the text of an item."""
        return self._messages("item", self._data.item(row))

    def user(self, row: UserInput) -> tuple[Message, ...]:
        """What asks for the text of a user."""
        return self._messages("user", self._data.user(row))

    def pair(self, row: PairInput) -> tuple[Message, ...]:
        """What asks for the text of a pair."""
        return self._messages("pair", self._data.pair(row))

    def example(self, kind: Kind) -> str:
        """The reply that is shown for an example of this kind of text."""
        return self._files[kind].examples[self._domain][1]

    def _messages(self, kind: Kind, data: dict[str, Any]) -> tuple[Message, ...]:
        return self._files[kind].messages(data, self._domain, self._values)


class LanguageModelWriter:
    """An `Annotator` that asks `asker` for each row.

    The costs of what it writes: prompt_tokens and reply_tokens; requests, repeated ones included;
    equal_prompts, which were not asked.
    """

    def __init__(self, prompts: Prompts, asker: Asker):
        self._prompts, self._asker = prompts, asker
        self._limits = prompts.limits
        self._item, self._user = self._limits.item(), self._limits.user()
        self._pair = self._limits.pair()

    def items(self, rows: Sequence[ItemInput]) -> Written[ItemText]:
        """See Annotator."""
        replies = self._replies(map(self._prompts.item, rows), self._item)
        texts = [
            self._text("item", reply, functools.partial(item_text, row, self._limits))
            for row, reply in zip(rows, replies, strict=True)
        ]
        return _written(texts, replies)

    def users(self, rows: Sequence[UserInput]) -> Written[UserText]:
        """See Annotator."""
        replies = self._replies(map(self._prompts.user, rows), self._user)
        to_text = functools.partial(user_text, self._limits)
        return _written([self._text("user", reply, to_text) for reply in replies], replies)

    def pairs(self, rows: Sequence[PairInput]) -> Written[PairText]:
        """See Annotator."""
        replies = self._replies(map(self._prompts.pair, rows), self._pair)
        texts = [
            self._text("pair", reply, functools.partial(pair_text, row, self._limits))
            for row, reply in zip(rows, replies, strict=True)
        ]
        return _written(texts, replies)

    def _text(
        self, kind: Kind, reply: Reply[ReplyT], to_text: Callable[[ReplyT], TextT | Failure]
    ) -> TextT | Failure:
        """A small model says of anything what the prompt's example says of a coffee grinder."""
        text = _text(reply, to_text)
        if isinstance(text, Failure):
            return text
        said = text.explanation if isinstance(text, PairText) else text.profile
        if not repeats_verbatim(said, self._prompts.example(kind)):
            return text
        message = "eight words in a row of the text are those of the prompt's example"
        return Failure(COPIES_EXAMPLE, message, reply.raw)

    def _replies(
        self, conversations: Iterable[tuple[Message, ...]], schema: type[ReplyT]
    ) -> list[Reply[ReplyT]]:
        return self._asker.ask([Prompt(messages, schema) for messages in conversations])


def _text(reply: Reply[ReplyT], to_text: Callable[[ReplyT], TextT | Failure]) -> TextT | Failure:
    if reply.value is not None:
        return to_text(reply.value)
    assert reply.failure is not None
    return Failure(reply.failure.reason, reply.failure.message, reply.raw)


def _written(results: Sequence[TextT | Failure], replies: Sequence[Reply[Any]]) -> Written[TextT]:
    usage = sum((reply.usage for reply in replies), Usage())
    costs = {
        "prompt_tokens": usage.num_prompt_tokens,
        "reply_tokens": usage.num_reply_tokens,
        "requests": usage.num_requests,
        "equal_prompts": sum(reply.usage == Usage() for reply in replies),
    }
    return Written(results, costs)
