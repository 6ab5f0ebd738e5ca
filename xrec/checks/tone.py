"""Whether an English text praises: it is not negative, and blames or denies no chosen aspect.

Sentiment is that of VADER (Hutto and Gilbert, 2014), a lexicon with rules, whose compound score is
-1 to 1. Titles and aspects are hidden from it, so that "The Killing Joke" and "murder mystery" are
not blame, and so are the nouns of the prompt's texts: what a book is about may be grim.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from xrec.checks.phrases import PhraseIndex
from xrec.checks.tokens import tokens_of
from xrec.data.english import is_noun, word_set
from xrec.data.titles import Span, composed, title_spans, without_spans

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_NEGATIVE = -0.05  # of a compound score, as VADER's authors take it
_HIDDEN, _CHOSEN = "\ue000", "\ue001"
_VALENCE_OF_BLAME = -1.9  # of the words that VADER does not know; as its "bad" and "poor", about
# Words that VADER takes for blame, and that praise items: low prices, killer burgers.
_NO_BLAME = ("low", "lower", "lowest", "killer", "insane", "insanely", "crazy", "wicked")
# Words of blame that VADER does not know.
_BLAME = word_set(
    "slow rude dirty outdated mediocre underwhelming tasteless overpriced unreliable noisy crowded "
    "cramped bland stale flimsy defective"
)

# VADER takes these for letters of the word that they stand at.
_PLAIN_MARKS = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u2026", '"') | {"\u2019": "'"}
)

_NEVER = r"(?:never|cannot|without|(?:\w+\s+)?not|\w+n['\u2019]t)"
# Words of blame or denial that say nothing bad.
_HARMLESS = re.compile(
    r"\bnot (?:only|just|merely|simply|to mention|to be missed|to miss|bad)\b"
    rf"|\b{_NEVER}\s+(?:(?:ever|be|go|a|want to)\s+)*(?:disappoint\w*|fail\w*|miss\w*|regret\w*|"
    r"wrong|resist|wait|beat|help|get enough|forget|mind|hesitate|fault|doubt|question|"
    r"let\w* (?:you|anyone|them) down|put (?:it|this) down|guess\w*)\b"
    r"|\bno[ -](?:doubt|wonder|question|shortage|lack|end|better|other|matter|surprises?|fuss"
    r"|frills|complaints?|problems?|issues?|worry|worries|nonsense|hassles?|stress|pressure|rush|wait"
    r"|regrets?|compromises?)\b(?: of\b)?"
    r"|\bnothing (?:but|beats|like|better|short of)\b|\bnone other than\b|\bsecond to none\b"
    r"|\b\w+[- ]free\b|\bto die for\b|\bno (?:place|shop|bar|restaurant|book)\b"
    r"|\bhard to (?:resist|beat|leave|fault|top|put (?:it |them |this )?down)\b"
    r"|\bwho wouldn['\u2019]t (?:like|love|enjoy|want)\b"
    r"|\b(?:not|n['\u2019]t) find (?:a |any )?(?:better|finer|nicer)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"[.,;:!?\u2026()\u2013\u2014]|\b(?:but|although|though|while|whereas|however|yet)\b",
    re.IGNORECASE,
)
_DENIAL = (
    r"(?:no|not|never|without|lack(?:s|ed|ing)?|missing|hardly|barely|neither|nor|cannot|despite|"
    r"except|avoid|instead of|rather than|nobody|no one|none of|used to be|stay away from|skip|"
    r"\w+n['\u2019]t)"
)
_VERB = r"(?:is|are|was|were|do|does|did|will|would|can|could|has|have|may|might|seems?|really)"
_DENIED = re.compile(
    rf"\b{_DENIAL}(?:\s+\w+){{0,4}}?\s+{_CHOSEN}"
    rf"|{_CHOSEN}(?:\s+{_VERB})?\s+(?:not|never|lacking|missing|cannot|\w+n['\u2019]t)\b",
    re.IGNORECASE,
)
_COSTLY = re.compile(
    r"\b(?:high|higher|steep|hefty|outrageous)\s+(?:prices?|costs?|fees?|price tag)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(rf"\b{_DENIAL}(?:\s+\w+){{0,3}}\s+$", re.IGNORECASE)
_WELCOMES = r"(?:enjoy|like|love|appreciate|recommend|return|come back|be (?:happy|satisfied))"
_DISSUADES = re.compile(
    r"\b(?:(?:would|may|might|could)(?:\s+not|n['\u2019]t)|will\s+not|won['\u2019]t)"
    rf"\s+(?:\w+\s+)?{_WELCOMES}\b"
    r"|\bleaves?\s+(?:much|a lot|something)\s+to\s+be\s+desired\b",
    re.IGNORECASE,
)


def why_not_positive(text: str, texts: PairTexts, aspects: PhraseIndex) -> str | None:
    """Why `text` does not praise, as a part of a sentence; None if it does, or is not English."""
    text = composed(text)
    if not tokens_of(text).is_english():
        return None
    chosen = PhraseIndex(each.aspect for each in texts.aspects)
    if costly := _costly(without_spans(text, title_spans(text, texts.item_title))):
        return f"it blames: {costly!r}"
    hidden = _HARMLESS.sub(f" {_HIDDEN} ", _hidden(text, texts, aspects, chosen))
    for clause in _CLAUSE.split(hidden):
        if _CHOSEN not in clause:
            continue
        denial = _DENIED.search(clause)
        if denial and _compound(clause[denial.end() :]) > _NEGATIVE:  # not "never crowded"
            return f"it denies or excludes a chosen aspect: {_shown(denial[0])!r}"
        if _compound(clause) <= _NEGATIVE:
            return f"it blames a chosen aspect: {_shown(clause)!r}"
    if dissuades := _DISSUADES.search(hidden):
        return f"it dissuades: {_shown(dissuades[0])!r}"
    compound = _compound(hidden)
    return f"its sentiment is {compound:.2f}" if compound <= _NEGATIVE else None


def _costly(text: str) -> str:
    """The first high price that `text` does not deny; empty if there is none."""
    found = (match for match in _COSTLY.finditer(text) if not _DENIES.search(text[: match.start()]))
    return next((match[0] for match in found), "")


def _hidden(text: str, texts: PairTexts, aspects: PhraseIndex, chosen: PhraseIndex) -> str:
    """`text` with a private character for each title, aspect, and grim noun of the prompt."""
    tokens = tokens_of(text)
    marks: list[tuple[Span, str]] = [
        (span, _HIDDEN) for span in title_spans(text, texts.item_title)
    ]
    marks += [((each.start, each.end), _CHOSEN) for each in chosen.find_in(tokens)]
    marks += [((each.start, each.end), _HIDDEN) for each in aspects.find_in(tokens)]
    said = {*tokens_of(texts.user_profile).keys, *tokens_of(texts.item_profile).keys}
    marks += [
        (span, _HIDDEN)
        for span, key in zip(tokens.spans, tokens.keys, strict=True)
        if key in said and is_noun(key) and _analyzer().lexicon.get(key, 0.0) < 0
    ]
    return _marked(text, marks)


def _marked(text: str, marks: list[tuple[Span, str]]) -> str:
    """`text` with marks in the place of spans; of two that overlap the earlier in the list."""
    taken: list[tuple[Span, str]] = []
    for (start, end), mark in marks:
        if all(end <= other[0] or start >= other[1] for other, _ in taken):
            taken.append(((start, end), mark))
    for (start, end), mark in sorted(taken, reverse=True):
        text = f"{text[:start]} {mark} {text[end:]}"
    return text


def _shown(text: str) -> str:
    return " ".join(text.replace(_CHOSEN, "ASPECT").replace(_HIDDEN, "...").split())


def _compound(text: str) -> float:
    return float(_analyzer().polarity_scores(text.translate(_PLAIN_MARKS))["compound"])


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    for word in _BLAME:
        analyzer.lexicon.setdefault(word, _VALENCE_OF_BLAME)
    for word in (*_NO_BLAME, "no"):  # what "no" denies tells whether it blames
        analyzer.lexicon.pop(word, None)
    return analyzer
