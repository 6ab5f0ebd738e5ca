"""The data types of this package, and the protocol of a language model."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel

from xrec.config import SamplingConfig
from xrec.errors import Failure

ObjectT = TypeVar("ObjectT", bound=BaseModel)


class Message(NamedTuple):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt(Generic[ObjectT]):
    """A conversation and the class of the reply.

    check: returns what is wrong with an object that fits the schema, for the model to read, or
        None if nothing is.
    seed: of the reply's sampling; few endpoints use it.
    user_ids: the users that the conversation is about.
    """

    messages: tuple[Message, ...]
    schema: type[ObjectT]
    check: Callable[[ObjectT], str | None] = lambda value: None
    seed: int = 0
    user_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """The cost of one or more replies; `num_requests` includes retries."""

    num_prompt_tokens: int = 0
    num_reply_tokens: int = 0
    num_requests: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.num_prompt_tokens + other.num_prompt_tokens,
            self.num_reply_tokens + other.num_reply_tokens,
            self.num_requests + other.num_requests,
        )

    @property
    def num_tokens(self) -> int:
        """The number of prompt and reply tokens together."""
        return self.num_prompt_tokens + self.num_reply_tokens


def about_tokens(text: str) -> int:
    """Estimate a text's tokens, for any tokenizer; English has about 0.25 per character."""
    return math.ceil(len(text) * 0.3)


@dataclass(frozen=True)
class Reply(Generic[ObjectT]):
    """The reply to the prompt at `index`.

    raw: the text of the last attempt. usage: the cost of all attempts. is_cut: whether the text
        reached the maximum length. failure: why there is no valid reply, or None. value: the object
        in the text, once it is parsed.
    """

    index: int
    raw: str
    usage: Usage
    is_cut: bool = False
    failure: Failure | None = None
    value: ObjectT | None = None


class LanguageModel(Protocol):
    """A model that writes replies to prompts; several threads may call it."""

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """Yield one reply per prompt, in the order in which they finish.

        A prompt is taken only when it can be sent. If a prompt gets no reply, its `Reply` has a
        `failure`. Raises XRecError if no prompt can get a reply.
        """
        ...
