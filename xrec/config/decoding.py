"""How texts are drawn from the language model, and which of them may be used."""

from typing import Annotated, Literal

from pydantic import Field

from xrec.config.base import Config
from xrec.config.checks import CheckFailure, ChecksConfig, PlainConfig

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

_TEMPERATURE_AFTER_CHECKS = 0.4


class TextConfig(Config):
    """What a generated text must be to be used; one that breaks a rule is a failed row.

    Some rules are always on: no text may name another item of the catalogue (`names_another_item`),
    hold a part of the title's place-holder (`broken_placeholder`), personal data, a link or a call
    to buy (`solicits`), or be in another language than the prompt asks for (`other_language`).
    """

    max_words: int | None = Field(50, ge=1)
    """Longest explanation, in words (in Chinese and Japanese, characters); a longer text is cut
    after a whole sentence. If null, any."""
    refuses_repetition: bool = True
    """Whether a text is refused that repeats itself, or 24 tokens of the prompt."""
    checks: ChecksConfig = ChecksConfig()
    retry_temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    """Temperature at which a text is drawn again that cannot be used, up to four times; null:
    never. A text with words that nothing supports is first drawn as before, without these words.
    auto is 0.4 if any of `checks` is on, else null."""
    fallback: Literal["none", "plain", "abstain"] = "plain"
    """What takes the place of a text that cannot be used. plain: a sentence from the evidence of
    its aspects, or abstained if there is none. abstain: it fails as abstained. none: it fails with
    the reason of its text."""
    min_evidence: int = Field(2, ge=1)
    """Least number of an item's reviews that mention an aspect of a plain sentence."""
    plain: PlainConfig = PlainConfig()
    is_backed: bool = False
    """Whether a text is followed by the plain sentence, if max_words allows both."""


class DecodingConfig(Config):
    """How text is drawn from the model."""

    max_new_tokens: int = Field(80, ge=1)
    """Longest explanation, in tokens, its end token included."""
    temperature: float = Field(0.0, ge=0)
    """Temperature of sampling; 0 always takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Share of the probability that sampling draws from; 1 allows all tokens."""
    seed: int = Field(0, ge=0)
    """Seed of sampling."""
    text: TextConfig = TextConfig()

    @property
    def retry_temperature(self) -> float | None:
        """At what temperature a text is drawn again that cannot be used; None if it is not."""
        if self.text.retry_temperature != "auto":
            return self.text.retry_temperature
        return _TEMPERATURE_AFTER_CHECKS if self.text.checks.are_on else None
