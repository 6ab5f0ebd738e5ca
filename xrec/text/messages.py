"""Prompts and replies, the protocol of a language model, and the object that a reply contains."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import json_repair
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from xrec.config import SamplingConfig
from xrec.errors import Failure

ObjectT = TypeVar("ObjectT", bound=BaseModel)

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
# JSON strings cannot contain these characters, but some grammars allow them. Outside strings, a
# line break is just whitespace in JSON.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_PROBLEMS = 3


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
        return Usage(*map(sum, zip(astuple(self), astuple(other), strict=True)))

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


class _StrictSchema(GenerateJsonSchema):
    """A schema in OpenAI's strict mode: exactly the given fields, no titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        strict = super().model_schema(schema)
        strict.pop("title", None)
        return {**strict, "additionalProperties": False}


class _UnboundedSchema(_StrictSchema):
    def str_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "string"}


def strict_schema(model: type[BaseModel], *, with_lengths: bool = False) -> dict[str, Any]:
    """Return the schema of `model`, whose fields have no defaults, for OpenAI's strict mode.

    with_lengths: whether to include string lengths, which OpenAI rejects; `parse_reply` always
        checks them.
    """
    generator = _StrictSchema if with_lengths else _UnboundedSchema
    return model.model_json_schema(schema_generator=generator)


def without_thoughts(text: str) -> str:
    """Return a reply without surrounding whitespace and what a model thought before it."""
    return _THOUGHTS.sub("", text).strip()


def parse_reply(text: str, schema: type[ObjectT], *, is_cut: bool = False) -> ObjectT | Failure:
    """Return the object in `text`, or why there is none.

    Removes fences and text around the object, and adds missing quotes and brackets. A text that was
    cut off is not repaired: nobody would notice that its last words are missing.
    """
    text = _CONTROL.sub(" ", without_thoughts(text)).strip()
    if not text:
        return Failure("empty_reply", "the reply has no text")
    with suppress(ValidationError):
        return schema.model_validate_json(text)
    if is_cut:
        return Failure("cut_off", "the reply reached its maximum length; raise max_tokens")
    values: Any = None
    with suppress(ValueError, RecursionError):
        values = json_repair.loads(text)
    if isinstance(values, list):
        values = next((value for value in values if isinstance(value, dict)), None)
    if not isinstance(values, dict):
        return Failure("invalid_json", "the reply contains no JSON object")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        return Failure("invalid_object", _describe(error))


def _describe(error: ValidationError) -> str:
    """List the first problems, without the values, which are in the raw reply."""
    problems = error.errors(include_input=False, include_url=False)[:_MAX_PROBLEMS]
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
        for problem in problems
    )
