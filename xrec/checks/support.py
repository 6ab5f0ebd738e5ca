"""What a text says and nothing supports: aspects, numbers and names that stand nowhere.

A text is supported by the texts of its prompt, by the aspects that were chosen for its pair with
their counts, and by its item's menu. "Excellent service" names an aspect where the vocabulary has
"friendly service", and is supported by any service of the item's. The user's profile says what a
user likes, not what an item has: it supports an aspect only where the text says it of the user.
An adjective before an aspect must stand before it in these texts too, or be its opinion, unless it
is praise of anything, as "great" is: of a warm tone and a bright display no display is warm. Words
are compared, not meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from xrec.checks.phrases import AspectNames, Named
from xrec.checks.tokens import Tokens, digits_in, number_words, numbers_of, tokens_of
from xrec.data.english import PRAISE_OF_ANYTHING, tags, word_set
from xrec.data.sentences import sentence_ends
from xrec.data.titles import Span, title_spans, without_spans

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_OPENS = re.compile('[:;\n"\u201c\u201d\u201e\u00ab\u00bb(\\[\u2013\u2014\u2026*\u2022]')
_USER_LIKES = re.compile(
    r"(?:\b(?:you|they|the (?:user|reader|guest))\s+(?:(?:also|often|always|most|\w+ly)\s+)?"
    r"(?:like|love|enjoy|value|appreciate|prefer|want|need|seek|praise|look for|care (?:for|about)|"
    r"are (?:fond of|looking for|a fan of))s?"
    r"|\byour\s+(?:\w+\s+)?(?:love|fondness|liking|taste|preference|passion|interest|wish|need)"
    r"(?:\s+(?:for|of|in))?"
    r"|\b(?:fans?|lovers?) of)\b"
    r"(?:(?!\b(?:the|its?|this|here|there|has|have|had|offers?|serves?|comes?|can|is|are|was|will|"
    r"would|you|your|for)\b)[^.;:!?])*$",
    re.IGNORECASE,
)
_I = re.compile("i(?:'.*)?")  # and "I'm", "I'd"
# What a model praises in any item, whatever the catalogue's aspects. The words of a line support
# each other: an item with a cuisine has food.
_KINDRED = tuple(
    map(
        word_set,
        (
            "staff service employee team support",
            "waitstaff waiter waitress server",
            "food dish meal menu cuisine dining",
            "atmosphere ambiance ambience vibe environment setting",
        ),
    )
)
_PRAISED_EVERYWHERE = AspectNames(
    word_set(
        "bartender chef crew owner decor drink ingredient portion price location parking scenery"
    ).union(*_KINDRED)
)
_DENIALS, _ARTICLES = word_set("no without lack lacking"), word_set("a an the any")
# What a profile warns of, to the next mark: "it may not be suitable for those who want ...".
_CAVEAT = re.compile(
    r"\b(?:not (?:be )?(?:suitable|ideal|recommended|for)|sensitive to|despite|overlook\w*)\b"
    r"[^.,:;!?]*",
    re.IGNORECASE,
)
_MOST_DENIED = 2  # words after a denial that it denies
# An adjective of order or number, or the writer's own pleasure, which no review confirms or denies.
_MAY_STAND_BEFORE = PRAISE_OF_ANYTHING | word_set(
    "such own other same many more most several high "
    "delicious tasty enjoyable memorable exceptional impressive unique favorite"
)
# What aspects end with too, and any item is or gives.
_SAYS_NOTHING = word_set(
    "place spot item business product choice option experience way time day night visit area "
    "city destination variety selection offering favorite"
)
_MOST_BETWEEN = 2  # words of a text that part those of a name


def unsupported_spans(
    tokens: Tokens, texts: PairTexts, aspects: AspectNames, further: Sequence[str] = ()
) -> list[Span]:
    """Where a text has aspects, numbers and proper names that nothing supports, in order.

    aspects: of the catalogue's vocabulary. further: texts that support it too.
    Number words, proper names and the last words of aspects ("service" of "friendly service") are
    looked at in English texts only, since other languages have other numbers, German capitalizes
    all nouns, and French aspects begin with theirs.
    """
    named = aspects.find_in(tokens)
    support = _Support(texts, further)
    unsupported = {
        (aspect.start, aspect.end)
        for aspect in named
        if not support.has_aspect(aspect, tokens, aspects)
    }
    within = {place for each in named for place in range(each.first, each.stop)}
    rest = [place for place in range(len(tokens)) if place not in within]
    unsupported |= {tokens.spans[place] for place in rest if not support.has_digits(tokens, place)}
    bare = _bare_aspects(tokens, rest, aspects)
    if (named or bare or _may_hold_a_name_or_number(tokens, rest)) and tokens.is_english():
        unsupported |= _number_words(tokens, support, rest) | _names(tokens, support, rest)
        unsupported |= _adjectives(tokens, support, named)
        unsupported |= {
            (each.start, each.end) for each in bare if not support.has_bare(each, tokens)
        }
    return sorted(unsupported)


def words_to_blame(tokens: Tokens, spans: Iterable[Span], texts: PairTexts) -> Iterator[str]:
    """The words without which a text goes another way than to what stands there, one for each.

    Of a phrase with the adjectives before it, the first word that says something and that no chosen
    aspect has: of "the friendly and helpful staff" it is friendly.
    """
    chosen = {key for each in texts.aspects for key in tokens_of(each.aspect).keys}
    for start, end in spans:
        own = [place for place, span in enumerate(tokens.spans) if start <= span[0] < end]
        whole = range(_start_with_adjectives(tokens, own[0]), own[-1] + 1)
        telling = {*_telling(tokens.keys[place] for place in whole)} - chosen
        yield from [tokens.word(place) for place in whole if tokens.keys[place] in telling][:1]


def _start_with_adjectives(tokens: Tokens, place: int) -> int:
    """Where the adjectives begin that stand before a place: "friendly, kind and helpful"."""

    def is_adjective(place: int) -> bool:
        return place >= 0 and tags().get(tokens.word(place).casefold()) == "JJ"

    while is_adjective(place - 1) or (tokens.keys[place - 1] == "and" and is_adjective(place - 2)):
        place -= 1 + (tokens.keys[place - 1] == "and")
    return place


class _Support:
    """What supports a text. Most texts need little of it, so it is made when it is asked for."""

    def __init__(self, texts: PairTexts, further: Sequence[str]):
        self._texts = texts
        self._further = further
        self._chosen = {each.aspect for each in texts.aspects}

    @cached_property
    def _tokens(self) -> list[Tokens]:
        texts = self._texts
        opinions = (each.opinion for each in texts.aspects)
        profile = _CAVEAT.sub(" | ", texts.item_profile)
        said = (texts.user_profile, texts.item_title, profile, *opinions)
        return [tokens_of(each) for each in (*said, *self._further)]

    @cached_property
    def _of_user(self) -> str:
        return _joined(self._tokens[:1])

    @cached_property
    def _of_item(self) -> str:
        return _joined(self._tokens[1:])

    @cached_property
    def _parts_of_item(self) -> list[list[str]]:
        """The words of the item's texts between marks."""
        return [part.split() for part in self._of_item.split("|")]

    @cached_property
    def _last_words(self) -> set[str]:
        """What the item's aspects end with: "service" of "friendly service"."""
        names = (tokens_of(name).keys for name in self._chosen | self._texts.menu)
        return {keys[-1] for keys in names if keys}

    @cached_property
    def numbers(self) -> set[str]:
        """All numbers of the texts and counts, as digits."""
        counts = {str(count) for each in self._texts.aspects for count in each.counts.values()}
        return counts.union(*map(numbers_of, self._tokens))

    def has_words(self, keys: Iterable[str]) -> bool:
        """Whether these words stand one after the other in one of the texts."""
        words = f" {' '.join(keys)} "
        return words in self._of_item or words in self._of_user

    def has_opinion(self, word: str, aspect: str) -> bool:
        """Whether the word is in the opinion on a chosen aspect."""
        opinions = [each.opinion for each in self._texts.aspects if each.aspect == aspect]
        return any(word in tokens_of(opinion).keys for opinion in opinions)

    def has_digits(self, tokens: Tokens, place: int) -> bool:
        """Whether a word has no digits, or it or all its numbers stand somewhere."""
        numbers = digits_in(tokens.word(place))
        is_known = not numbers or self.numbers.issuperset(numbers)
        return is_known or self.has_words([tokens.keys[place]])

    def has_aspect(self, named: Named, tokens: Tokens, aspects: AspectNames) -> bool:
        """Whether the aspect is chosen, on the menu, or in a text of what it is said of."""
        if named.name in self._texts.menu or named.name in self._chosen:
            return True
        if not _telling(tokens.keys[named.first : named.stop]):
            return True
        if named.stop - named.first == 1 and self.has_bare(named, tokens):
            return True
        return self._says(named, tokens) or any(
            aspects.same(other) == named.name for other in self._chosen | self._texts.menu
        )

    def has_bare(self, named: Named, tokens: Tokens) -> bool:
        """Whether an aspect of the item's ends with it, or a text of what it is said of has it."""
        word = tokens.keys[named.first]
        kindred = next((words for words in _KINDRED if word in words), frozenset((word,)))
        return (
            not kindred.isdisjoint(self._last_words)
            or not kindred.isdisjoint(chain(*self._parts_of_item))
            or self._says(named, tokens)
        )

    def _says(self, named: Named, tokens: Tokens) -> bool:
        """Whether a text of the item names it, or the user's where it is said of the user."""
        near = _telling(tokens.keys[named.first : named.stop])
        return self._has_near(near) or self.has_place(tokens, named.first, named.stop)

    def has_place(self, tokens: Tokens, first: int, stop: int) -> bool:
        """Whether words of the text stand in one of the item's, or of the user's if said of it."""
        words = f" {' '.join(tokens.keys[first:stop])} "
        if words in self._of_item or words not in self._of_user:
            return words in self._of_item
        start = tokens.spans[first][0]
        titles = (end for _, end in self.title_spans(tokens) if end <= start)
        return _USER_LIKES.search(tokens.text[max(titles, default=0) : start]) is not None

    def _has_near(self, keys: Sequence[str]) -> bool:
        """Whether a text of the item has these words near each other: "a selection of fine wines".

        Of "a warm tone and a bright display" it has no warm display.
        """
        length, wanted = len(keys) + _MOST_BETWEEN, set(keys)
        return any(
            wanted.issubset(words[start : start + length])
            for words in self._parts_of_item
            for start in range(max(1, len(words) - length + 1))
        )

    def title_spans(self, tokens: Tokens) -> list[Span]:
        """Where the text names its item."""
        return title_spans(tokens.text, self._texts.item_title)


def _telling(keys: Iterable[str]) -> list[str]:
    """The words of a name without praise of anything and what any item is."""
    return [key for key in keys if key not in _MAY_STAND_BEFORE and key not in _SAYS_NOTHING]


def _joined(texts: Sequence[Tokens]) -> str:
    """The words of the texts with a bar between texts, and where a mark parts two words.

    What a text says that there is not ("without a bag") is left out.
    """
    words: list[str] = ["|"]
    for tokens in texts:
        left_out = 0
        for place, key in enumerate(tokens.keys):
            if place and not tokens.are_joined(place - 1, place + 1):
                words.append("|")
                left_out = 0
            if left_out and key not in _ARTICLES:
                left_out -= 1
                words.append("|")
            else:
                words.append(key)
            if key in _DENIALS and tokens.is_followed_by_a_blank(place):
                left_out = _MOST_DENIED
        words.append("|")
    return f" {' '.join(words)} "


def _bare_aspects(tokens: Tokens, rest: Sequence[int], aspects: AspectNames) -> list[Named]:
    """The nouns of `rest` that are the last words of aspects, or what is praised everywhere."""
    found = [*aspects.last_words.find_in(tokens), *_PRAISED_EVERYWHERE.find_in(tokens)]
    return [
        each
        for each in found
        if each.first in rest
        and (word := tokens.keys[each.first]) not in _SAYS_NOTHING
        and tags().get(word, "NN").startswith("NN")
    ]


def _adjectives(tokens: Tokens, support: _Support, named: Sequence[Named]) -> set[tuple[int, int]]:
    """The adjectives that stand right before an aspect, and nowhere else do."""
    return {
        (tokens.spans[each.first - 1][0], each.end)
        for each in named
        if each.first
        and tokens.gap(each.first).isspace()
        and tags().get(tokens.word(each.first - 1).casefold()) == "JJ"
        and tokens.keys[each.first - 1] not in _MAY_STAND_BEFORE
        and not support.has_words(tokens.keys[each.first - 1 : each.stop])
        and not support.has_opinion(tokens.keys[each.first - 1], each.name)
    }


def _number_words(tokens: Tokens, support: _Support, rest: Sequence[int]) -> set[tuple[int, int]]:
    return {
        (tokens.spans[start][0], tokens.spans[stop - 1][1])
        for start, stop, number in number_words(tokens)
        if start in rest
        and number not in support.numbers
        and not support.has_words(tokens.keys[start:stop])
    }


def _names(tokens: Tokens, support: _Support, rest: Sequence[int]) -> set[tuple[int, int]]:
    ends = sentence_ends(without_spans(tokens.text, support.title_spans(tokens)))
    return {
        tokens.spans[place]
        for place in rest
        if _has_capital(tokens.word(place))
        and not _I.fullmatch(tokens.keys[place])
        and not _begins_sentence(tokens, place, ends)
        and not support.has_place(tokens, place, place + 1)
    }


def _begins_sentence(tokens: Tokens, place: int, ends: Sequence[int]) -> bool:
    if place == 0 or _OPENS.search(tokens.gap(place)):
        return True
    before, start = tokens.spans[place - 1][1], tokens.spans[place][0]
    return any(before < end <= start for end in ends)


def _has_capital(word: str) -> bool:
    return any(map(str.isupper, word))


def _may_hold_a_name_or_number(tokens: Tokens, rest: Sequence[int]) -> bool:
    """Whether there is anything that only an English text is looked at for."""
    capitals = any(place and _has_capital(tokens.word(place)) for place in rest)
    return capitals or any(number_words(tokens))
