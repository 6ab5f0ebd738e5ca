"""Check that an English text is not negative and does not blame or deny a chosen aspect.

Sentiment is the compound score, from -1 to 1, of VADER (Hutto and Gilbert, 2014), a rule-based
lexicon. Titles and aspects are hidden from it, so that "The Killing Joke" and "murder mystery" do
not count as blame. So are negative nouns in the prompt's texts, as a book's subject may be grim.
"""

from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

from xrec.checks.english import ASPECT, HIDDEN, pattern, words
from xrec.checks.phrases import PhraseIndex
from xrec.checks.support import Claims
from xrec.checks.tokens import tokens_of
from xrec.data.language import Span, is_noun, without_spans

_NEGATIVE = -0.05  # compound score; the threshold of VADER's authors
_VALENCE_OF_BLAME = -1.9  # of words that VADER lacks; close to that of its "bad" and "poor"
# VADER treats these as letters of the adjacent word.
_PLAIN_MARKS = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u2026", '"') | {"\u2019": "'"}
)


def why_not_positive(claims: Claims) -> str | None:
    """Return why a text is not positive, as a clause; None if it is, or if it is not English."""
    if not claims.tokens.is_english:
        return None
    untitled = without_spans(claims.tokens.text, claims.titles)
    hidden = pattern("harmless").sub(f" {HIDDEN} ", _hidden(claims))
    reasons = chain(_high_prices(untitled), _about_aspects(hidden), _about_all(hidden))
    return next(reasons, None)


def _high_prices(text: str) -> Iterator[str]:
    for match in pattern("costly").finditer(text):
        if not pattern("denies_next").search(text[: match.start()]):
            yield f"it blames: {match[0]!r}"


def _about_aspects(hidden: str) -> Iterator[str]:
    for clause in pattern("clause").split(hidden):
        denial = pattern("denied_aspect").search(clause)
        if denial and _compound(clause[denial.end() :]) > _NEGATIVE:  # unlike "never crowded"
            yield f"it denies or excludes a chosen aspect: {_shown(denial[0])!r}"
        if ASPECT in clause and _compound(clause) <= _NEGATIVE:
            yield f"it blames a chosen aspect: {_shown(clause)!r}"


def _about_all(hidden: str) -> Iterator[str]:
    if dissuades := pattern("dissuades").search(hidden):
        yield f"it dissuades: {_shown(dissuades[0])!r}"
    if (compound := _compound(hidden)) <= _NEGATIVE:
        yield f"its sentiment is negative ({compound:.2f})"


def _hidden(claims: Claims) -> str:
    """Replace each title, aspect, and negative noun of the prompt in a text with a placeholder.

    If some overlap, titles take precedence, then chosen aspects.
    """
    tokens, texts = claims.tokens, claims.texts
    chosen = PhraseIndex(known.aspect for known in texts.aspects)
    profiles = {*tokens_of(texts.user_profile).keys, *tokens_of(texts.item_profile).keys}
    grim = [
        span
        for span, key in zip(tokens.spans, tokens.keys, strict=True)
        if key in profiles and is_noun(key) and _analyzer().lexicon.get(key, 0.0) < 0
    ]
    marks: list[tuple[Span, str]] = [
        *((span, HIDDEN) for span in claims.titles),
        *(((named.start, named.end), ASPECT) for named in chosen.find_in(tokens)),
        *(((named.start, named.end), HIDDEN) for named in claims.aspects),
        *((span, HIDDEN) for span in grim),
    ]
    disjoint: list[tuple[Span, str]] = []
    for (start, end), mark in marks:
        if all(end <= other[0] or start >= other[1] for other, _ in disjoint):
            disjoint.append(((start, end), mark))
    text = tokens.text
    for (start, end), mark in sorted(disjoint, reverse=True):
        text = f"{text[:start]} {mark} {text[end:]}"
    return text


def _shown(text: str) -> str:
    return " ".join(text.replace(ASPECT, "ASPECT").replace(HIDDEN, "...").split())


def _compound(text: str) -> float:
    return float(_analyzer().polarity_scores(text.translate(_PLAIN_MARKS))["compound"])


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    for word in words("blame"):
        analyzer.lexicon.setdefault(word, _VALENCE_OF_BLAME)
    # Such as "no", which is blame or not depending on what it denies.
    for word in words("no_blame"):
        analyzer.lexicon.pop(word, None)
    return analyzer
