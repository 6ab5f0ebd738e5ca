"""Prompts of numbered words, whose right reply is an object with the word."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from tests.world.endpoint import Answer, Asked, StubEndpoint
from xrec.config import EndpointModelConfig
from xrec.storage import Forgotten, open_location
from xrec.text import Message, Prompt
from xrec.text.endpoint import Endpoint, EndpointModel
from xrec.text.reply_store import ReplyStore

PEOPLE = Forgotten(b"a key")
KEY = SecretStr("sk-a-key-that-nobody-may-see")


class Said(BaseModel):
    """The object that a reply is to hold."""

    word: str


def prompts(number: int) -> list[Prompt[Said]]:
    """Return prompts that ask for `word-0`, `word-1`, ..."""
    return [Prompt((Message("user", f"word-{place}"),), Said) for place in range(number)]


def replies_in(
    folder: Path, run: str = "run", attempt: int = 0, at_once: int = 2, **settings: float
) -> ReplyStore:
    return ReplyStore(open_location(str(folder)), PEOPLE, run, attempt, at_once, **settings)


def right(asked: Asked) -> Answer:
    return Answer(text=f'{{"word": "{asked.words}"}}')


def endpoint_model(stub: StubEndpoint, **settings: Any) -> EndpointModel:
    config = endpoint_config(stub, **settings)
    return EndpointModel(config, Endpoint(config, KEY))


def endpoint_config(stub: StubEndpoint, **settings: Any) -> EndpointModelConfig:
    usual = {"kind": "endpoint", "base_url": stub.url, "model": stub.model}
    return EndpointModelConfig.model_validate({**usual, **settings})
