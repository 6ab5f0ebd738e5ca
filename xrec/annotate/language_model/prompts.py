"""Builds the prompt for a row's text: the row's data as JSON, cut to a number of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from xrec.annotate.annotator import (
    Input,
    ItemInput,
    ItemText,
    Kind,
    PairInput,
    Review,
    UserInput,
)
from xrec.annotate.language_model.replies import ReplyLimits, reply_schema
from xrec.config import StorageConfig
from xrec.errors import ConfigError
from xrec.text import Message, PromptFile, parse_prompt_file, read_prompt_file

_CHARACTERS_PER_TOKEN = 1 / 0.3  # as in `about_tokens`
_MIN_CHARACTERS = 80  # a review that would be cut to fewer is dropped
_DETAILS_SHARE = 0.25
_ABOUT_SHARE = 0.1


def read_prompt(
    kind: Kind, uri: str | None, domain: str, storage: StorageConfig | None = None
) -> PromptFile:
    """Read the prompt file at `uri`, or ours for this kind of text if it is None.

    Raises ConfigError if the file is unreadable, has no example for `domain`, or has an example
    whose reply does not fit the schema.
    """
    if uri is None:
        ours = resources.files(__package__) / "prompts" / f"{kind}.txt"
        prompt = parse_prompt_file(ours.name, ours.read_text("utf-8"))
    else:
        prompt = read_prompt_file(f"annotator.prompts.{kind}", uri, storage)
    if domain not in prompt.examples:
        raise ConfigError(
            f"{prompt.name}: no example for annotator.domain = {domain}; choose one of "
            f"{', '.join(prompt.examples) or 'none'}, or add [example {domain}]",
            code="no_example",
            key="annotator.domain",
            saw=domain,
        )
    prompt.check(reply_schema(kind, ReplyLimits()))
    return prompt


@dataclass(frozen=True)
class Prompts:
    """The prompts of all kinds of texts.

    limits: those of the replies. max_tokens: the maximum number of tokens of a row's data.
    language: the name of the language of the texts.
    """

    files: Mapping[Kind, PromptFile]
    limits: ReplyLimits
    max_tokens: int
    domain: str
    language: str

    def of(self, row: Input) -> tuple[Message, ...]:
        """Return the conversation that asks for the text of a row."""
        values = {"language": self.language, "max_aspects": str(self.limits.num_aspects)}
        data = row_data(row, int(self.max_tokens * _CHARACTERS_PER_TOKEN))
        return self.files[row.kind].messages(data, self.domain, values)

    def example(self, row: Input) -> str:
        """Return the reply in the example that a row's prompt shows."""
        return self.files[row.kind].examples[self.domain][1]


def row_data(row: Input, room: int) -> dict[str, Any]:
    """Return the data of a row for its prompt, with at most `room` characters of text in total."""
    match row:
        case ItemInput():
            details = cut(row.details, int(room * _DETAILS_SHARE))
            reviews = _reviews([(review, {}) for review in row.reviews], room - len(details))
            return {"title": row.title, "details": details, "reviews": reviews}
        case UserInput():
            about = int(room * _ABOUT_SHARE)
            reviewed = [(each.review, _about(each.item, about)) for each in row.reviews]
            return {"reviews": _reviews(reviewed, room)}
        case PairInput():
            item = _about(row.item, int(room * _DETAILS_SHARE))
            left = room - sum(map(len, item.values()))
            return {**item, "review": cut(row.review.text, left)}


def cut(text: str, room: int) -> str:
    """Return the text, or as many of its first words as fit into `room` characters."""
    text = text.strip()
    return text if len(text) <= room else text[: max(0, room)].rpartition(" ")[0]


def _reviews(reviews: Sequence[tuple[Review, dict[str, str]]], room: int) -> list[dict[str, Any]]:
    """Return the first reviews that fit; the last one may be cut."""
    shown: list[dict[str, Any]] = []
    for review, item in reviews:
        room -= sum(map(len, item.values()))
        if room < _MIN_CHARACTERS:
            break
        text = cut(review.text, room)
        room -= len(text)
        rating = {} if review.rating is None else {"rating": review.rating}
        shown.append({**item, **rating, "review": text})
    return shown


def _about(item: ItemText | None, room: int) -> dict[str, str]:
    if item is None:
        return {"item": "", "about": ""}
    return {"item": item.title, "about": cut(item.profile, room)}
