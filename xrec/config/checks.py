"""Checks of finished texts, and what is said instead of a text that fails them."""

from typing import Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.prompt import EVIDENCE, check_allowed, parse_placeholders

CheckFailure = Literal["unsupported", "unchosen", "named_twice", "not_positive", "unsafe"]
"""Why a text that keeps the other rules may not be shown."""

_VALUES = (*EVIDENCE, "title", "of_title", "opinion", "reviews", "mention")


class ChecksConfig(Config):
    """What a text is checked for after all other rules; docs/generation.md says how."""

    unsupported: bool = False
    """Whether to refuse a text with a word that neither the prompt nor the item's training reviews
    back. In English that covers all words but function words, praise and the like; in other
    languages, aspects of the vocabulary and numbers."""
    min_chosen: int = Field(0, ge=0)
    """Number of the aspects chosen for its pair that a text must name; all, where fewer were
    chosen."""
    named_twice: bool = False
    """Whether to refuse a text of which a sentence names an aspect twice, or one that the title
    names ('the Light suits you for the light')."""
    not_positive: bool = False
    """Whether to refuse an English text whose sentiment is negative, or that blames or denies a
    chosen aspect."""
    unsafe_words: str | None = None
    """URI of a text file with a word or phrase a line; a text that has one outside the item's title
    is refused. If null, there is no list."""

    @property
    def are_on(self) -> bool:
        """Whether anything is checked."""
        return self != ChecksConfig()


class PlainConfig(Config):
    """The templates of the plain sentence: `first`, then `second` if two aspects have evidence.

    {item_reviews} of {num_item_reviews} reviews of the item mention the {aspect}, and
    {user_reviews} of {num_user_reviews} of the user's; {title} is the item's.
    """

    reviews: tuple[str, str] = ("review", "reviews")
    """{reviews} of one review, and of more."""
    mention: tuple[str, str] = ("mentions", "mention")
    """{mention} of one review, and of more."""
    opinion: str = " (\u201c{opinion}\u201d)"
    """{opinion} where reviews have words of their own."""
    of_title: str = " of {title}"
    """{of_title} of an item with a title, where no text precedes."""
    first: str = (
        "{item_reviews} of {num_item_reviews} {reviews}{of_title} {mention} the {aspect}{opinion}"
    )
    """What is said of the best aspect."""
    second: str = ", and {item_reviews} the {aspect}{opinion}"
    """What is said of the next one."""
    user: str = ", which you mention in {user_reviews} of your {num_user_reviews}"
    """What follows an aspect that reviews of the user mention."""
    user_of_one: str = ", which you mention in yours"
    """The same if the user wrote one review."""
    end: str = "."
    """What ends the sentence."""

    @property
    def literals(self) -> tuple[str, ...]:
        """The words of the templates themselves, and all forms."""
        of_aspects = (self.first, self.second, self.of_title, self.opinion)
        parts = (*of_aspects, self.user, self.user_of_one, self.end)
        literal = tuple(text for part in parts for text, _ in parse_placeholders(part))
        return (*literal, *self.reviews, *self.mention)

    @model_validator(mode="after")
    def _placeholders_are_known(self) -> "PlainConfig":
        for part in ("first", "second", "user", "user_of_one"):
            check_allowed(part, getattr(self, part), _VALUES)
        check_allowed("of_title", self.of_title, ("title",))
        check_allowed("opinion", self.opinion, ("opinion",))
        return self
