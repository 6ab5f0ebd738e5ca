"""Titles for items that have none: what their training reviews call them most often.

"Dunlop Wah Pedal" is a proper name that many of the item's reviews have, and the noun phrase that
they say `this` of, or have in their headings.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from xrec.annotate.annotator import Review
from xrec.annotate.phrases.grammar import valence
from xrec.annotate.phrases.lexicon import NO_ASPECTS, USUAL_ASPECTS, Lexicon
from xrec.annotate.phrases.mentions import MOST_WORDS, Phrase, noun_phrases, proper_names
from xrec.data.english import singular, tags, word_set

_POINTED, _IN_SUMMARY = 3.0, 2.0  # what such a mention counts beside a plain one
_FREQUENT = 1.3  # more than one favours what many of the item's reviews have
_LONGER = 0.25  # by how much each further word raises the score
_SHARE_OF_NAME = 0.3
_NO_BRANDS = word_set(
    "Amazon Ebay Christmas January February March April May June July August September October "
    "November December Monday Friday Saturday Sunday American English Chinese China Japan USA "
    "America Europe Great Good Love Best Nice Very Well Works Not The This But And For"
)
# What ends no title: parts, uses, costs and effects of an item.
_NO_THINGS = word_set(
    "work cost function application package batch tune thumb blow fold hole task fan break rock "
    "recording track gauge year lot way time day week weekend speech kind sort thing flaw issue "
    "complaint"
).union(NO_ASPECTS, USUAL_ASPECTS)
# What says nothing of what an item is, or how much somebody likes it.
_NO_KINDS = word_set(
    "proper right various individual multiple specific complete quality tiny single minimal real "
    "same other new old last first second only whole entire actual extra particular usual main "
    "cheap cheaper cheapest basic"
)


def made_title(reviews: Sequence[Review], lexicon: Lexicon) -> str:
    """A title in capitalized words; empty if the item's reviews call it nothing."""
    called = _called(reviews, lexicon)
    if not called:
        return ""
    brand = _brand(reviews, lexicon)
    words = called.split(" ")
    if not set(map(singular, brand.lower().split(" "))).isdisjoint(map(singular, words)):
        brand = ""
    return " ".join([*([brand] if brand else []), *map(_capitalized, words)])


def _called(reviews: Sequence[Review], lexicon: Lexicon) -> str:
    scores: defaultdict[str, float] = defaultdict(float)
    written: dict[str, Counter[str]] = {}
    num_reviews: Counter[str] = Counter()
    for review in reviews:
        of_review: dict[str, float] = {}
        for text, weight in ((review.summary, _IN_SUMMARY), (review.review, 1.0)):
            for phrase in noun_phrases(text):
                counts = weight * (_POINTED if phrase.points else 1.0)
                for name, as_written in _ways_to_call(phrase):
                    of_review[name] = max(of_review.get(name, 0.0), counts)
                    written.setdefault(name, Counter())[as_written] += 1
        for name, counts in of_review.items():
            scores[name] += counts
            num_reviews[name] += 1
    least = 2 if len(reviews) > 2 else 1
    usual = [
        name
        for name in scores
        if num_reviews[name] >= least and name not in lexicon.aspects and _may_be_title(name)
    ]
    things = [name for name in usual if _is_thing(name, lexicon)]
    best = max(
        things or usual,
        key=lambda name: (scores[name] ** _FREQUENT * _rarity(name, lexicon) * _length(name), name),
        default="",
    )
    return written[best].most_common(1)[0][0] if best else ""


def _may_be_title(name: str) -> bool:
    *before, last = (singular(word) for word in name.split(" "))
    repeats = len({*before, last}) <= len(before)
    is_judged = valence(last) < 0 or any(word in _NO_KINDS or valence(word) for word in before)
    return not (repeats or is_judged or last in _NO_THINGS)


def _ways_to_call(phrase: Phrase) -> list[tuple[str, str]]:
    """The names of a phrase, also with the adjective before it, each as it is written."""
    names = list(zip(phrase.names, phrase.written, strict=True))
    if phrase.modifier and len(names) < MOST_WORDS:
        names.insert(0, (f"{phrase.modifier} {names[0][0]}", f"{phrase.modifier} {names[0][1]}"))
    return names


def _is_thing(name: str, lexicon: Lexicon) -> bool:
    """Whether items are called so: reviews say `this pedal`, and then a wah pedal is one too."""
    return name in lexicon.things or name.rpartition(" ")[2] in lexicon.things


def _brand(reviews: Sequence[Review], lexicon: Lexicon) -> str:
    counts: Counter[str] = Counter()
    for review in reviews:
        counts.update(proper_names(review.review) | proper_names(review.summary))
    least = max(2.0, _SHARE_OF_NAME * len(reviews))
    return max(
        (
            name
            for name, count in counts.items()
            if count >= least and not _NO_BRANDS & set(name.split(" ")) and not _is_common(name)
        ),
        key=lambda name: (counts[name] * (1.0 + name.count(" ")), name),
        default="",
    )


def _is_common(name: str) -> bool:
    """Whether a name is a word that headings are written with, such as `Strings`."""
    return " " not in name and tags().get(name.lower(), "NNP") not in ("NNP", "NNPS", "FW")


def _rarity(name: str, lexicon: Lexicon) -> float:
    return math.log((2 + lexicon.num_learned) / (1 + lexicon.num_reviews.get(name, 0)))


def _length(name: str) -> float:
    return 1.0 + _LONGER * name.count(" ")


def _capitalized(word: str) -> str:
    return re.sub(r"(^|-)([a-z])", lambda match: match[1] + match[2].upper(), word)
