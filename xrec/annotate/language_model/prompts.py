"""Builds the prompt for a row's text: the row's data as JSON, cut to a number of tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pydantic import BaseModel

from xrec.annotate.annotator import Input, ItemInput, ItemText, PairInput, Review, UserInput
from xrec.annotate.language_model.replies import Kind, ReplyLimits
from xrec.config import StorageConfig
from xrec.data.language import language_name
from xrec.errors import ConfigError
from xrec.storage import fingerprint_of
from xrec.text import Message, PromptFile, about_tokens, parse_prompt_file, read_prompt_file

_MIN_TOKENS = 24  # a review that would be cut to fewer is dropped
_DETAILS_SHARE = 0.25
_ABOUT_SHARE = 0.1


def read_prompt(
    kind: Kind,
    uri: str | None,
    schema: type[BaseModel],
    domain: str,
    storage: StorageConfig | None = None,
) -> PromptFile:
    """Read the prompt file at `uri`, or ours for this kind of text if it is None.

    Raises ConfigError if the file is unreadable, has no example for `domain`, or has an example
    whose reply does not fit `schema`.
    """
    if uri is None:
        name = f"{kind}.txt"
        text = (resources.files(__package__) / "prompts" / name).read_text("utf-8")
        prompt = parse_prompt_file(name, text)
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
    prompt.check(schema)
    return prompt


class Prompts:
    """The prompts of all kinds of texts; `limits` are the limits of their replies."""

    def __init__(
        self,
        files: Mapping[Kind, PromptFile],
        data: "RowData",
        limits: ReplyLimits,
        *,
        domain: str,
        language: str,
    ):
        self._files, self._data, self.limits, self._domain = files, data, limits, domain
        self.language = language_name(language)
        self._values = {"language": self.language, "max_aspects": str(limits.num_aspects)}

    def of(self, row: Input) -> tuple[Message, ...]:
        """Return the conversation that asks for the text of a row."""
        return self._file(row).messages(self._data.of(row), self._domain, self._values)

    def example(self, row: Input) -> str:
        """Return the reply in the example that a row's prompt shows."""
        return self._file(row).examples[self._domain][1]

    def fingerprints(self) -> dict[Kind, str]:
        """Return the hash of the instruction and example of each kind of prompt."""
        return {
            kind: fingerprint_of([file.system, *file.examples[self._domain]])
            for kind, file in self._files.items()
        }

    def _file(self, row: Input) -> PromptFile:
        return self._files[kind_of(row)]


def kind_of(row: Input) -> Kind:
    """Return the kind of text to write for a row."""
    return (
        "item" if isinstance(row, ItemInput) else "user" if isinstance(row, UserInput) else "pair"
    )


@dataclass(frozen=True)
class RowData:
    """A row's data for its prompt, with at most `max_tokens` tokens of text in total.

    count: estimates the tokens of a text.
    """

    max_tokens: int
    count: Callable[[str], int] = about_tokens

    def of(self, row: Input) -> dict[str, Any]:
        """Return the data of a row, with as many of its reviews as fit."""
        match row:
            case ItemInput():
                details = self.cut(row.details, int(self.max_tokens * _DETAILS_SHARE))
                left = self.max_tokens - self.count(details)
                reviews = self._reviews([(review, {}) for review in row.reviews], left)
                return {"title": row.title, "details": details, "reviews": reviews}
            case UserInput():
                reviewed = [
                    (each.review, self._about(each.item, _ABOUT_SHARE)) for each in row.reviews
                ]
                return {"reviews": self._reviews(reviewed, self.max_tokens)}
            case PairInput():
                about = self._about(row.item, _DETAILS_SHARE)
                left = self.max_tokens - sum(map(self.count, about.values()))
                return {**about, "review": self.cut(_joined(row.review), left)}

    def cut(self, text: str, max_tokens: int) -> str:
        """Return the text, or as many of its first words as fit `max_tokens`."""
        text = text.strip()
        while text and (count := self.count(text)) > max_tokens:
            share = max_tokens / count if count > max_tokens + 1 else 0.0
            shorter = text[: min(len(text) - 1, int(len(text) * share))]
            text = shorter.rpartition(" ")[0] if " " in shorter else ""
        return text

    def _reviews(
        self, reviews: Sequence[tuple[Review, dict[str, str]]], max_tokens: int
    ) -> list[dict[str, Any]]:
        """Return the first reviews that fit; the last one may be cut."""
        shown: list[dict[str, Any]] = []
        left = max_tokens
        for review, more in reviews:
            left -= sum(map(self.count, more.values()))
            if left < _MIN_TOKENS:
                break
            text = self.cut(_joined(review), left)
            left -= self.count(text)
            rating = {} if review.rating is None else {"rating": review.rating}
            shown.append({**more, **rating, "review": text})
        return shown

    def _about(self, item: ItemText | None, share: float) -> dict[str, str]:
        if item is None:
            return {"item": "", "about": ""}
        about = self.cut(item.profile, int(self.max_tokens * share))
        return {"item": item.title, "about": about}


def _joined(review: Review) -> str:
    """Return the heading and the review as one text."""
    heading = review.summary.strip()
    return f"{heading}: {review.review}" if heading and review.review else heading or review.review
