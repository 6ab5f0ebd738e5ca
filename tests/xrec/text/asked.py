"""Prompts of numbered words, whose right reply is an object with the word."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr

from tests.xrec.text.stub_endpoint import Answer, Asked, StubEndpoint
from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.text import Message, Prompt, RawReply, ReplyFailure, Usage
from xrec.text.endpoint import EndpointModel

COST = Usage(10, 2, 1)
LONG = '{"word": "a very long wo'
KEY = SecretStr("sk-a-key-that-nobody-may-see")


class Said(BaseModel):
    """The object that a reply is to hold."""

    word: str


def prompts(number: int) -> list[Prompt[Said]]:
    """Return prompts that ask for `word-0`, `word-1`, ..."""
    return [Prompt((Message("user", f"word-{place}"),), Said) for place in range(number)]


class ScriptedModel:
    """A LanguageModel that writes what `answer` says, to the last prompt first.

    asked: the prompts that it answered, in order. The text `late` is a time-out; LONG is cut off.
    """

    def __init__(self, answer: Callable[[Prompt[Any], SamplingConfig], str]):
        self._answer = answer
        self.asked: list[tuple[Prompt[Any], SamplingConfig]] = []

    @property
    def words(self) -> list[str]:
        """The first message of each prompt that was asked."""
        return [prompt.messages[0].content for prompt, _ in self.asked]

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        for index in reversed(range(len(prompts))):
            text = self._answer(prompts[index], sampling)
            self.asked.append((prompts[index], sampling))
            failure = ReplyFailure("timeout", "late") if text == "late" else None
            yield RawReply(index, text, COST, is_cut=text == LONG, failure=failure)


def right(asked: Asked) -> Answer:
    return Answer(text=f'{{"word": "{asked.words}"}}')


def endpoint_model(stub: StubEndpoint, **settings: Any) -> EndpointModel:
    return EndpointModel(endpoint_config(stub, **settings), KEY)


def endpoint_config(stub: StubEndpoint, **settings: Any) -> EndpointModelConfig:
    usual = {"kind": "endpoint", "base_url": stub.url, "model": stub.model}
    return EndpointModelConfig.model_validate({**usual, **settings})
