"""A prompt as a file: an instruction, and examples that are shown as earlier turns.

    [system]
    What the model should do, with placeholders such as {language}.

    [example shop]
    the example's input, one line of JSON
    [reply]
    its reply, one line of JSON

The question comes last, as JSON, so no text in it can end its string. Chat-template markup in it is
escaped: our engines never read special tokens in a text, but some endpoints do.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from xrec.config import StorageConfig
from xrec.errors import ConfigError, StorageError
from xrec.storage import open_location
from xrec.text.messages import Message

# As in <|im_start|>, <s> and [INST]; a JSON array never begins with two capitals.
_MARKUP = re.compile(r"<|\[(?=/?[A-Z]{2})")
_HEADING = re.compile(r"^\[(system|example \w+|reply)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class PromptFile:
    """An instruction, and each example by name: its input and its reply, both JSON."""

    name: str
    system: str
    examples: Mapping[str, tuple[str, str]]

    def messages(
        self, data: Mapping[str, Any], example: str | None, values: Mapping[str, str]
    ) -> tuple[Message, ...]:
        """Return the conversation that asks about `data`, with the named example before it, if any.

        values: the value of each placeholder in the instruction.
        """
        system = self.system
        for name, value in values.items():
            system = system.replace(f"{{{name}}}", value)
        shown = []
        if example is not None:
            asked, reply = self.examples[example]
            shown = [Message("user", asked), Message("assistant", reply)]
        question = json.dumps(data, ensure_ascii=False)
        question = _MARKUP.sub(lambda mark: f"\\u{ord(mark[0]):04x}", question)
        return (Message("system", system), *shown, Message("user", question))

    def check(self, schema: type[BaseModel]) -> None:
        """Raise ConfigError if an example is not JSON, or its reply does not fit `schema`."""
        for name, (shown, reply) in self.examples.items():
            try:
                if not isinstance(json.loads(shown), dict):
                    raise ValueError("expected a JSON object as input")
                schema.model_validate_json(reply)
            except ValueError as error:
                raise ConfigError(
                    f"{self.name}: [example {name}]: {error}",
                    code="broken_example",
                    key=self.name,
                    saw=name,
                ) from error


def read_prompt_file(key: str, uri: str, storage: StorageConfig | None = None) -> PromptFile:
    """Read the prompt file at `uri`, the value of the key `key`; raise ConfigError if invalid."""
    try:
        text = open_location(uri, storage).read_bytes().decode("utf-8")
    except (StorageError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{key}: cannot read {uri} ({error}); on a cluster, use a URI that all nodes can read, "
            "such as s3://",
            code="file_unreadable",
            key=key,
            saw=uri,
        ) from error
    return parse_prompt_file(uri, text)


def parse_prompt_file(name: str, text: str) -> PromptFile:
    """Parse a prompt file; raise ConfigError if its headings are out of order."""
    start, *parts = _HEADING.split(text)
    headings, bodies = parts[::2], list(map(str.strip, parts[1::2]))
    names = [heading.removeprefix("example ") for heading in headings[1::2]]
    pairs = [part for name in dict.fromkeys(names) for part in (f"example {name}", "reply")]
    if start.strip() or headings != ["system", *pairs]:
        raise ConfigError(
            f"{name}: expected [system] on the first line, then pairs of [example NAME] and "
            "[reply], each name once",
            code="wrong_headings",
            key=name,
        )
    examples = zip(bodies[1::2], bodies[2::2], strict=True)
    return PromptFile(name, bodies[0], dict(zip(names, examples, strict=True)))
