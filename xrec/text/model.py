"""What goes into a language model and comes out of it, and the protocol of one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from xrec.config.text import ReplyFailureReason, SamplingConfig

ObjectT = TypeVar("ObjectT", bound=BaseModel)


@dataclass(frozen=True)
class Message:
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt(Generic[ObjectT]):
    """A conversation, and the class of the object that is to be the reply."""

    messages: tuple[Message, ...]
    schema: type[ObjectT]


@dataclass(frozen=True)
class Usage:
    """What a reply cost, or many.

    num_requests: how often the model was asked, refused requests included.
    """

    num_prompt_tokens: int = 0
    num_reply_tokens: int = 0
    num_requests: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_prompt_tokens + other.num_prompt_tokens,
            self.num_reply_tokens + other.num_reply_tokens,
            self.num_requests + other.num_requests,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_prompt_tokens - other.num_prompt_tokens,
            self.num_reply_tokens - other.num_reply_tokens,
            self.num_requests - other.num_requests,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and replies together."""
        return self.num_prompt_tokens + self.num_reply_tokens


def about_tokens(text: str) -> int:
    """About how many tokens a text is, for any tokenizer; English takes 0.25 a character."""
    return math.ceil(len(text) * 0.3)


@dataclass(frozen=True)
class ReplyFailure:
    """Why a prompt has no valid reply; the message never holds a key of an endpoint."""

    reason: ReplyFailureReason
    message: str


@dataclass(frozen=True)
class RawReply:
    """What the model wrote for the prompt at `index`.

    is_cut: whether the text ended because it reached the largest length.
    failure: why there is no text, if there is none.
    """

    index: int
    text: str
    usage: Usage
    is_cut: bool = False
    failure: ReplyFailure | None = None


@dataclass(frozen=True)
class Reply(Generic[ObjectT]):
    """The reply to the prompt at `index`: a valid object, or a failure.

    raw: the text as the model wrote it, the last one if it was asked twice.
    usage: of all that was asked for this prompt.
    """

    index: int
    value: ObjectT | None
    failure: ReplyFailure | None
    raw: str
    usage: Usage


class LanguageModel(Protocol):
    """Writes replies to prompts; its methods may be called from several threads."""

    name: str
    """What may be written into artifacts about the model."""

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """Yield one reply for each prompt, in the order in which they are finished.

        A prompt that has no reply has a `failure`. Raises an XRecError if no prompt can have one.
        """
        ...

    def num_tokens(self, text: str) -> int:
        """How many tokens a text is, or about how many; always the same of one text."""
        ...

    def close(self) -> None:
        """Let go of connections, threads and memory. Calling it twice has no effect."""
        ...
