"""What the language model is told of a pair, and the placeholders of its parts, `{name}`."""

import re
from collections.abc import Mapping, Sequence
from string import Formatter

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config

_TITLE_PLACEHOLDER = re.compile(r"[^\w\s.!?\u2026]\w{2,}[^\w\s.!?\u2026]")
EVIDENCE = ("aspect", "item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
"""What an entry of a list of aspects may hold: the fields of xrec.data.evidence."""


class PromptConfig(Config):
    """The prompt, with the part that most prompts share first.

    It is instruction, user, item, aspects_part and collaborative. `{user}` and `{item}` are the
    collaborative tokens; each stands once, in the part of its texts or in `collaborative`. What
    comes before the first of them is computed once in training, so `collaborative:
    "{user}{item}"` trains fastest.
    """

    instruction: str = "Explain in one sentence why this user would enjoy this item."
    """What the model is asked, the same for all pairs."""
    language: str | None = Field(None, min_length=1)
    """The language of explanations, a name or an ISO 639-1 code. The instruction ends with it, and
    a text that is surely in another one is refused. If null, any."""
    user: str = "User: {user} {user_profile}"
    """The user's part."""
    item: str = "Item: {item} {item_title}. {item_profile}"
    """The item's part."""
    aspects: int = Field(0, ge=0)
    """Number of the item's aspects that are chosen for the user and shown."""
    aspects_part: str = "Reasons: {aspects}"
    """What follows the item's part if aspects were chosen; {aspects} lists them."""
    aspect: str = "{aspect} in {item_reviews} of {num_item_reviews} reviews"
    """An entry of that list; {user_reviews} and {num_user_reviews} are there too."""
    opinion: str = ' ("{opinion}")'
    """What follows {aspect} if a review praises it; {opinion} are the words of the review."""
    collaborative: str = ""
    """What follows the texts, e.g. {user}{item}. If empty, nothing."""
    max_prompt_tokens: int = Field(512, ge=8)
    """Longer prompts are rejected, never cut."""
    title_placeholder: str = "[title]"
    """What the model writes in place of the item's title: a word between two marks."""
    untitled: str = Field("this item", min_length=1)
    """What an item without a title is called."""

    @field_validator("title_placeholder")
    @classmethod
    def _placeholder_is_a_word_between_marks(cls, placeholder: str) -> str:
        if not _TITLE_PLACEHOLDER.fullmatch(placeholder):
            raise ValueError(
                f"expected a word between two marks, as [title] or <item>, saw {placeholder!r}"
            )
        return placeholder

    @model_validator(mode="after")
    def _placeholders_stand_in_their_part(self) -> "PromptConfig":
        check_allowed("instruction", self.instruction, allowed=())
        check_allowed("user", self.user, allowed=("user", "user_profile"))
        check_allowed("item", self.item, allowed=("user", "item", "item_title", "item_profile"))
        check_allowed("collaborative", self.collaborative, allowed=("user", "item"))
        check_allowed("aspect", self.aspect, allowed=EVIDENCE)
        check_allowed("aspects_part", self.aspects_part, allowed=("aspects",))
        check_once({"aspects_part": self.aspects_part}, ("aspects",))
        check_once({"aspect": self.aspect}, ("aspect",))
        check_allowed("opinion", self.opinion, allowed=("opinion",))
        check_once(
            {"user": self.user, "item": self.item, "collaborative": self.collaborative},
            ("user", "item"),
        )
        return self


def parse_placeholders(text: str) -> list[tuple[str, str | None]]:
    """The literal texts of `text`, each with the placeholder that follows it.

    "User: {user}." gives [("User: ", "user"), (".", None)].
    """
    return [(literal, name) for literal, name, _, _ in Formatter().parse(text)]


def check_allowed(part: str, text: str, allowed: Sequence[str]) -> None:
    """Raise ValueError if a placeholder of `text`, a part of a template, is not in `allowed`."""
    for name in placeholder_names(text):
        if name not in allowed:
            raise ValueError(
                f"part {part!r} holds {{{name}}}; allowed there: {', '.join(allowed) or 'none'}"
            )


def check_once(parts: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise ValueError unless all `parts` (name to text) together hold each of `names` once."""
    for name in names:
        places = [
            part
            for part, text in parts.items()
            for found in placeholder_names(text)
            if found == name
        ]
        if len(places) != 1:
            raise ValueError(
                f"the prompt must hold {{{name}}} exactly once, saw it in "
                f"{', '.join(places) or 'no part'}; "
                f"put it into one of the parts {', '.join(parts)}"
            )


def placeholder_names(text: str) -> list[str]:
    """The names in braces, in order, as often as they stand there."""
    return [name for _, name in parse_placeholders(text) if name is not None]
