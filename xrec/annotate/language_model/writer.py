"""The annotator itself, as an actor has it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    Input,
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

_KINDS: Mapping[type[Input], Kind] = {ItemInput: "item", UserInput: "user", PairInput: "pair"}


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

    def of(self, row: Input) -> tuple[Message, ...]:
        """What asks for the text of a row."""
        file = self._files[_KINDS[type(row)]]
        return file.messages(self._data.of(row), self._domain, self._values)

    def example(self, row: Input) -> str:
        """The reply that is shown for an example of this kind of text."""
        return self._files[_KINDS[type(row)]].examples[self._domain][1]


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
        return self._written(rows, self._item, item_text)

    def users(self, rows: Sequence[UserInput]) -> Written[UserText]:
        """See Annotator."""
        return self._written(rows, self._user, user_text)

    def pairs(self, rows: Sequence[PairInput]) -> Written[PairText]:
        """See Annotator."""
        return self._written(rows, self._pair, pair_text)

    def _written(
        self, rows: Sequence[Input], schema: type[BaseModel], to_text: Callable[..., Any]
    ) -> Written[Any]:
        replies = self._asker.ask([Prompt(self._prompts.of(row), schema) for row in rows])
        texts = [self._text(row, reply, to_text) for row, reply in zip(rows, replies, strict=True)]
        usage = sum((reply.usage for reply in replies), Usage())
        costs = {
            "prompt_tokens": usage.num_prompt_tokens,
            "reply_tokens": usage.num_reply_tokens,
            "requests": usage.num_requests,
            "equal_prompts": sum(reply.usage == Usage() for reply in replies),
        }
        return Written(texts, costs)

    def _text(self, row: Input, reply: Reply[Any], to_text: Callable[..., Any]) -> Any:
        """A small model says of anything what the prompt's example says of a coffee grinder."""
        if reply.failure is not None:
            return Failure(reply.failure.reason, reply.failure.message, reply.raw)
        text = to_text(row, self._limits, reply.value)
        if isinstance(text, Failure):
            return text
        said = text.explanation if isinstance(text, PairText) else text.profile
        if not repeats_verbatim(said, self._prompts.example(row)):
            return text
        message = "eight words in a row of the text are those of the prompt's example"
        return Failure(COPIES_EXAMPLE, message, reply.raw)
