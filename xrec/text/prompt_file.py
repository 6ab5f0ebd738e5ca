"""A prompt as a file: an instruction, and examples that are shown as turns of the conversation.

    [system]
    What the model is to do; place-holders such as {language} are filled in.

    [example shop]
    the example's input, one line of JSON
    [reply]
    its right reply, one line of JSON

The question itself comes last, as JSON too: a text in it cannot end its string, so what it says
stays data. Nor is any markup of a chat template in it: our engines never take a text's words for
special tokens, but some endpoints do.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from xrec.config import StorageConfig
from xrec.errors import ConfigError, StorageError
from xrec.storage import open_location
from xrec.text.model import Message

# As in <|im_start|>, <s> and [INST]; no array of JSON begins with two capitals.
_OPENS_MARKUP = re.compile(r"<|\[(?=/?[A-Z]{2})")
_HEADING = re.compile(r"^\[(system|example \w+|reply)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class PromptFile:
    """The instruction, and input and reply of each example, by name; both are JSON."""

    name: str
    system: str
    examples: Mapping[str, tuple[str, str]]

    def messages(
        self, data: Mapping[str, Any], example: str | None, values: Mapping[str, str]
    ) -> tuple[Message, ...]:
        """The conversation that asks about `data`, after an example if one is named.

        values: what is filled in for each place-holder of the instruction.
        """
        system = self.system
        for name, value in values.items():
            system = system.replace(f"{{{name}}}", value)
        shown = []
        if example is not None:
            asked, reply = self.examples[example]
            shown = [Message("user", asked), Message("assistant", reply)]
        question = json.dumps(data, ensure_ascii=False)
        question = _OPENS_MARKUP.sub(lambda mark: f"\\u{ord(mark[0]):04x}", question)
        return (Message("system", system), *shown, Message("user", question))

    def check(self, schema: type[BaseModel]) -> None:
        """Raise ConfigError if an example is no JSON, or its reply no object of `schema`."""
        for name, (shown, reply) in self.examples.items():
            try:
                if not isinstance(json.loads(shown), dict):
                    raise ValueError("expected a JSON object as input")
                schema.model_validate_json(reply)
            except (ValueError, ValidationError) as error:
                raise ConfigError(
                    f"{self.name}: [example {name}]: {error}",
                    code="broken_example",
                    key=self.name,
                    saw=name,
                ) from error


def read_prompt_file(key: str, uri: str, storage: StorageConfig | None = None) -> PromptFile:
    """The prompt in the file at `uri`, which the config key `key` names; raises ConfigError."""
    try:
        text = open_location(uri, storage).read_bytes().decode("utf-8")
    except (StorageError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{key}: {uri} cannot be read ({error}); a job on a cluster needs a URI that the "
            "cluster reads, such as s3://",
            code="file_unreadable",
            key=key,
            saw=uri,
        ) from error
    return parse_prompt_file(uri, text)


def parse_prompt_file(name: str, text: str) -> PromptFile:
    """The prompt in `text`; raises ConfigError if its headings are not in the order above."""
    pieces = _HEADING.split(text)
    parts = list(zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True))
    if pieces[0].strip() or not parts or parts[0][0] != "system":
        raise ConfigError(
            f"{name}: expected [system] as its first line", code="no_system", key=name
        )
    examples = {}
    for (heading, shown), (reply_heading, reply) in zip(parts[1::2], parts[2::2], strict=False):
        if not heading.startswith("example ") or reply_heading != "reply":
            break
        examples[heading.removeprefix("example ")] = (shown, reply)
    if len(parts) != 1 + 2 * len(examples):
        raise ConfigError(
            f"{name}: expected [example NAME] and [reply] in turn after [system], each name once",
            code="examples_out_of_turn",
            key=name,
        )
    return PromptFile(name, parts[0][1], examples)
