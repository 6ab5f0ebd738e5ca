"""The prompt of a kind of text: a file with an instruction and an example for each domain.

    [system]
    What the model is to do; {language} and {max_aspects} are filled in.

    [example shop]
    the example's input, one line of JSON
    [reply]
    its right reply, one line of JSON

The example of the config's domain is shown to the model as a turn of the conversation. The row
itself comes last, as JSON too: a text in it cannot end its string, so what it says stays data.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pydantic import BaseModel, ValidationError

from xrec.annotate.language_model.replies import Kind
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError, StorageError
from xrec.storage import open_location
from xrec.text import Message

KINDS: tuple[Kind, ...] = ("item", "user", "pair")

_HEADING = re.compile(r"^\[(system|example \w+|reply)\]\s*$", re.MULTILINE)


@dataclass(frozen=True)
class PromptFile:
    """The instruction, and input and reply of each example, by domain; both are JSON."""

    name: str
    system: str
    examples: Mapping[str, tuple[str, str]]

    def messages(
        self, data: Mapping[str, Any], domain: str, values: Mapping[str, str]
    ) -> tuple[Message, ...]:
        """The conversation that asks for the text of a row.

        values: what is filled in for each place-holder of the instruction.
        """
        system = self.system
        for name, value in values.items():
            system = system.replace(f"{{{name}}}", value)
        shown, reply = self.examples[domain]
        return (
            Message("system", system),
            Message("user", shown),
            Message("assistant", reply),
            Message("user", json.dumps(data, ensure_ascii=False)),
        )


def read_prompt(
    kind: Kind,
    uri: str | None,
    schema: type[BaseModel],
    domain: str,
    storage: StorageConfig | None = None,
) -> PromptFile:
    """The prompt in the file at `uri`; if that is None, our own for this kind of text.

    Raises ConfigError if the file cannot be read, has no example of `domain`, or an example whose
    reply is no object of `schema`.
    """
    if uri is None:
        text = (resources.files(__package__) / "prompts" / f"{kind}.txt").read_text("utf-8")
    else:
        try:
            text = open_location(uri, storage).read_bytes().decode("utf-8")
        except (StorageError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"annotator.prompts.{kind}: {uri} cannot be read ({error}); a job on a cluster "
                "needs a URI that the cluster reads, such as s3://"
            ) from error
    prompt = _parsed(uri or f"{kind}.txt", text)
    _check(prompt, schema, domain)
    return prompt


def _parsed(name: str, text: str) -> PromptFile:
    pieces = _HEADING.split(text)
    parts = list(zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True))
    if pieces[0].strip() or not parts or parts[0][0] != "system":
        raise ConfigError(f"{name}: expected [system] as its first line")
    examples = {}
    for (heading, shown), (reply_heading, reply) in zip(parts[1::2], parts[2::2], strict=False):
        if not heading.startswith("example ") or reply_heading != "reply":
            break
        examples[heading.removeprefix("example ")] = (shown, reply)
    if len(parts) != 1 + 2 * len(examples):
        raise ConfigError(
            f"{name}: expected [example NAME] and [reply] in turn after [system], each name once"
        )
    return PromptFile(name, parts[0][1], examples)


def _check(prompt: PromptFile, schema: type[BaseModel], domain: str) -> None:
    if domain not in prompt.examples:
        raise ConfigError(
            f"{prompt.name}: no example for annotator.domain = {domain}; it has "
            f"{', '.join(prompt.examples) or 'none'}"
        )
    for name, (shown, reply) in prompt.examples.items():
        try:
            if not isinstance(json.loads(shown), dict):
                raise ValueError("expected a JSON object as input")
            schema.model_validate_json(reply)
        except (ValueError, ValidationError) as error:
            raise ConfigError(f"{prompt.name}: [example {name}]: {error}") from error
