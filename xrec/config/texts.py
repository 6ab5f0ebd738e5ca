"""How texts are written and checked: prompt, decoding, checks, and plain sentences."""

from collections.abc import Mapping, Sequence
from functools import partial
from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from xrec.config.base import Config, Uri, with_defaults
from xrec.config.job import JobConfig

_EVIDENCE = ("aspect", "item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")


def parse_placeholders(text: str) -> list[tuple[str, str | None]]:
    """Return the literal parts of `text`, each with the placeholder that follows it.

    "User: {user}." gives [("User: ", "user"), (".", None)].
    """
    return [(literal, name) for literal, name, _, _ in Formatter().parse(text)]


def placeholder_names(text: str) -> list[str]:
    """Return the names in braces, in order and with repetitions."""
    return [name for _, name in parse_placeholders(text) if name is not None]


def _check_placeholders(text: str, allowed: Sequence[str], once: Sequence[str] = ()) -> str:
    names = placeholder_names(text)
    if others := [name for name in names if name not in allowed]:
        raise ValueError(
            f"contains {{{others[0]}}}; allowed there: {', '.join(allowed) or 'no placeholder'}"
        )
    if wrong := [name for name in once if names.count(name) != 1]:
        raise ValueError(f"must contain {{{wrong[0]}}} exactly once")
    return text


def _allowing(*names: str, once: Sequence[str] = ()) -> AfterValidator:
    """Return a check that a text has no other placeholders, and those in `once` one time."""
    return AfterValidator(partial(_check_placeholders, allowed=names, once=once))


class PromptConfig(Config):
    """The prompt, which starts with the part that most prompts share.

    It consists of instruction, user, item, aspects_part, people, and collaborative. `{user}` and
    `{item}` are the collaborative tokens; each appears once, in `user`, `item`, or `collaborative`.
    Training computes what precedes them only once, so `collaborative: "{user}{item}"` is fastest.
    """

    instruction: Annotated[str, _allowing()] = (
        "Explain in one sentence why this user would enjoy this item."
    )
    """What the model is asked to do, the same for all pairs."""
    language: str | None = Field(None, min_length=1)
    """Language of the explanations: a name or an ISO 639-1 code. The instruction ends with it, and
    a text that is clearly in another language is refused. If null, any language is allowed."""
    user: Annotated[str, _allowing("user", "user_profile")] = "User: {user} {user_profile}"
    """The user's part."""
    item: Annotated[str, _allowing("user", "item", "item_title", "item_profile")] = (
        "Item: {item} {item_title}. {item_profile}"
    )
    """The item's part."""
    aspects: int = Field(0, ge=0)
    """Number of the item's aspects to choose for the user and show."""
    aspects_part: Annotated[str, _allowing("aspects", once=["aspects"])] = "Reasons: {aspects}"
    """What follows the item's part if aspects were chosen; {aspects} lists them."""
    aspect: Annotated[str, _allowing(*_EVIDENCE, once=["aspect"])] = (
        "{aspect} in {item_reviews} of {num_item_reviews} reviews"
    )
    """An entry of that list; it may also contain {user_reviews} and {num_user_reviews}."""
    opinion: Annotated[str, _allowing("opinion")] = ' ("{opinion}")'
    """What follows {aspect} if a review praises it; {opinion} is quoted from the review."""
    people: Annotated[str, _allowing("people")] = ""
    """What follows them if it is known what people did (docs/neighbors.md), for example "Others:
    {people}". If empty, nothing."""
    collaborative: Annotated[str, _allowing("user", "item")] = ""
    """What follows the texts, for example {user}{item}. If empty, nothing."""
    max_prompt_tokens: int = Field(512, ge=8)
    """Maximum length in tokens; longer prompts are refused, never cut."""
    untitled: str = Field("this item", min_length=1)
    """What an item without a title is called."""

    @model_validator(mode="after")
    def _collaborative_tokens_appear_once(self) -> "PromptConfig":
        parts = {part: getattr(self, part) for part in ("user", "item", "collaborative")}
        for name in ("user", "item"):
            saw = [
                part
                for part, text in parts.items()
                for each in placeholder_names(text)
                if each == name
            ]
            if len(saw) != 1:
                raise ValueError(
                    f"the prompt must contain {{{name}}} exactly once, saw it in "
                    f"{', '.join(saw) or 'no part'}; put it into one of {', '.join(parts)}"
                )
        return self


class PromptJobConfig(JobConfig):
    """A job whose language model is trained to answer the prompt."""

    prompt: PromptConfig = PromptConfig()


CheckFailure = Literal[
    "unsupported", "unchosen", "named_twice", "not_positive", "complained", "unsafe"
]
"""Why a check refuses a text."""

TextFailure = Literal[
    "empty_text",
    "repetitive_text",
    "prompt_echo",
    "no_full_sentence",
    "names_another_item",
    "broken_placeholder",
    "solicits",
    "other_language",
    CheckFailure,
    "abstained",
]
"""Why a text cannot be used."""


class ChecksConfig(Config):
    """What a text is checked for after the other rules (docs/generation.md)."""

    unsupported: bool = False
    """Whether to refuse a text with a word that neither the prompt nor the item's training reviews
    support. In English this covers all words except function words, praise, and the like; in other
    languages, only numbers and aspects of the vocabulary."""
    min_chosen: int = Field(0, ge=0)
    """Minimum number of the pair's chosen aspects that a text must name; all if fewer are chosen.
    """
    named_twice: bool = False
    """Whether to refuse a text with a sentence that names an aspect twice, or an aspect that the
    title names ('the Light suits you for the light')."""
    not_positive: bool = False
    """Whether to refuse an English text whose sentiment is negative, or that criticizes or
    denies a chosen aspect."""
    complained: bool = False
    """Whether to refuse a text that names an aspect that the user complains of: one that more of
    their reviews, low-rated ones included, criticize than praise."""
    unsafe_words: Uri | None = None
    """URI of a text file with one word or phrase per line; a text that contains one outside the
    item's title is refused. If null, there is no such check."""
    entailment: Uri | None = None
    """Local folder of a natural language inference model, the same on all machines; a text is
    refused as unsupported if the model finds that the profiles and the evidence do not entail one
    of its sentences. If null, there is no such check."""

    @property
    def are_on(self) -> bool:
        """Whether any check is on."""
        return self != ChecksConfig()


PlainTemplates = Mapping[str, str]
PLAIN: PlainTemplates = {
    "first": "{item_reviews} of {num_item_reviews} {reviews}{of_title} {mention} the {aspect}"
    "{opinion}",
    "second": ", and {item_reviews} {mention} the {aspect}{opinion}",
    "user": ", which you mention in {user_reviews} of your {num_user_reviews}",
    "user_of_one": ", which you mention in yours",
    "end": ".",
    "of_title": " of {title}",
    "opinion": " (\u201c{opinion}\u201d)",
    "reviews": "review|reviews",
    "mention": "mentions|mention",
}
"""The templates of a plain sentence (`decoding.text.plain`).

A sentence is `first`, then `second` if two aspects have evidence, then `end`. An aspect that the
user's reviews mention is followed by `user`, or by `user_of_one` if the user wrote a single review.
{of_title} is empty if the item has no title or a text precedes the sentence, and {opinion} if there
is no opinion to quote; {reviews} and {mention} are singular|plural.
"""
_VALUES = (*_EVIDENCE, "title", "of_title", "opinion", "reviews", "mention")
_PLACEHOLDERS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("first", "second", "user", "user_of_one"), _VALUES),
    "of_title": ("title",),
    "opinion": ("opinion",),
}


def _check_templates(templates: PlainTemplates) -> PlainTemplates:
    for name, text in templates.items():
        try:
            _check_placeholders(text, _PLACEHOLDERS.get(name, ()))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return templates


class PeopleWords(Config):
    """The words of a sentence about what people did with items (docs/neighbors.md)."""

    chose: str = Field("chose", min_length=1)
    """What they did, in the past tense: bought, went to, read."""
    this: str = Field("this", min_length=1)
    """What the recommended item is called: this book, this place."""


class TextConfig(Config):
    """The rules for generated texts; a text that breaks one is a failed row.

    Some rules are always on: a text must not name another item of the catalog
    (`names_another_item`), contain part of the title's placeholder (`broken_placeholder`), personal
    data, a link, or a call to buy (`solicits`), or be in a different language than the prompt asks
    for (`other_language`).
    """

    max_words: int | None = Field(50, ge=1)
    """Maximum length in words (in Chinese and Japanese, characters); a longer text is cut after a
    whole sentence. If null, no limit."""
    refuses_repetition: bool = True
    """Whether to refuse a text that repeats itself, or repeats 24 tokens of the prompt."""
    checks: ChecksConfig = ChecksConfig()
    retry_temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    """Temperature at which a refused text is drawn again, up to four times. A text with unsupported
    words is first drawn again without these words. auto is 0.4 if any of `checks` is on, else null:
    no retry."""
    fallback: Literal["none", "plain", "abstain"] = "plain"
    """What replaces a text that cannot be used. plain: a sentence made from the evidence of the
    aspects and of what people did, or abstain if there is none. abstain: the row fails as
    abstained. none: the row fails with the reason why the text was refused."""
    min_evidence: int = Field(2, ge=1)
    """Minimum number of the item's reviews that must mention an aspect of a plain sentence."""
    plain: Annotated[PlainTemplates, with_defaults(PLAIN), AfterValidator(_check_templates)] = PLAIN
    """Templates of plain sentences by name, in any language (docs/generation.md); those that are
    not given keep their defaults."""
    is_backed: bool = False
    """Whether to append the plain sentence to each text, if max_words allows both."""
    people: PeopleWords = PeopleWords()


class DecodingConfig(Config):
    """How text is sampled from the model."""

    max_new_tokens: int = Field(80, ge=1)
    """Maximum length of an explanation in tokens, including its end token."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Cumulative probability of the tokens that sampling draws from; 1 allows all tokens."""
    seed: int = Field(0, ge=0)
    """Sampling seed."""
    text: TextConfig = TextConfig()

    @property
    def retry_temperature(self) -> float | None:
        """The temperature at which a refused text is drawn again, or None for no retry."""
        if self.text.retry_temperature != "auto":
            return self.text.retry_temperature
        return 0.4 if self.text.checks.are_on else None
