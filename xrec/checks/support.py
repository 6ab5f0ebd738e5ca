"""What a text says and nothing supports.

In English every word must be supported, except the words that frame a reason and say nothing of an
item (`xrec.checks.words`). In other languages the aspects of the vocabulary and the numbers in
digits must be.

A text is supported by the texts of its prompt, by the aspects that were chosen for its pair with
their counts, and by its item's menu. The user's profile says what a user likes, not what an item
has: it supports a word only where the text says it of the user. An adjective before an aspect must
stand before it in these texts too, or be its opinion, unless it frames: of a warm tone and a bright
display no display is warm. Words are compared, not meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from xrec.checks.phrases import AspectNames, Named
from xrec.checks.tokens import Tokens, digits_in, number_words, numbers_of, tokens_of
from xrec.checks.words import frame_phrases, is_frame, stem_of, stems_of
from xrec.data.english import tags, word_set
from xrec.data.titles import Span, title_spans

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

# What ends where a word stands that is said of the user: "as you like cakes and", "fans of".
_OF_USER = re.compile(
    r"(?:(?:^|[.,;:!?]|\b(?:as|since|because|if|when|that|what|which|where|while|and|but|so|how)\b)"
    r"\s*(?:you|the (?:user|reader|guest)|they\s+(?:also\s+)?(?:like|love|enjoy|appreciate|prefer|"
    r"value|want|need|seek))\b|\byour\b|\b(?:fans?|lovers?) of\b)"
    r"(?!['\u2019](?:ll|d)|\s+(?:would|will|can|could|may|might|should|must)\b)"
    r"(?:(?!\b(?:the|its?|this|here|there|has|have|had|offers?|serves?|comes|can|is|was|will|would|"
    r"you|your)\b)[^.;:!?])*$",
    re.IGNORECASE,
)
_DENIALS, _ARTICLES = word_set("no without lack lacking"), word_set("a an the any")
# What a profile warns of, to the next mark: "it may not be suitable for those who want ...".
_CAVEAT = re.compile(
    r"\b(?:not (?:be )?(?:suitable|ideal|recommended|for)|sensitive to|despite|overlook\w*)\b"
    r"[^.,:;!?]*",
    re.IGNORECASE,
)
_MOST_DENIED = 2  # words after a denial that it denies
_MOST_BETWEEN = 2  # words of a text that part those of a name


def unsupported_spans(
    tokens: Tokens, texts: PairTexts, aspects: AspectNames, further: Sequence[str] = ()
) -> list[Span]:
    """Return where a text says what nothing supports, in order.

    aspects: of the catalogue's vocabulary. further: texts that support it too.
    """
    support, named = _Support(texts, further), aspects.find_in(tokens)
    unsupported = {
        (each.start, each.end) for each in named if not support.has_aspect(each, tokens, aspects)
    }
    decided = [*named, *frame_phrases(tokens)]
    within = {place for each in decided for place in range(each.first, each.stop)}
    rest = [place for place in range(len(tokens)) if place not in within]
    unsupported |= {tokens.spans[place] for place in rest if not support.has_digits(tokens, place)}
    if tokens.is_english():
        numbers = list(number_words(tokens))
        in_numbers = {place for start, stop, _ in numbers for place in range(start, stop)}
        unsupported |= {
            (tokens.spans[start][0], tokens.spans[stop - 1][1])
            for start, stop, number in numbers
            if start in rest
            and number not in support.numbers
            and not support.has_words(tokens.keys[start:stop])
        }
        unsupported |= {
            tokens.spans[place]
            for place in rest
            if place not in in_numbers and not support.has_word(tokens, place)
        }
        unsupported |= _adjectives(tokens, support, named)
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
    def _stems_of_item(self) -> set[str]:
        """The stems of what the item's texts say, of its menu and of the chosen aspects."""
        names = (tokens_of(name).keys for name in self._chosen | self._texts.menu)
        return {stem_of(key) for keys in (*names, self._of_item.split()) for key in keys}

    @cached_property
    def _stems_of_user(self) -> set[str]:
        return {stem_of(key) for key in self._of_user.split()}

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
        known, keys = self._chosen | self._texts.menu, tokens.keys[named.first : named.stop]
        if named.name in known or any(aspects.same(each) == named.name for each in known):
            return True
        if named.stop - named.first == 1 and self.has_word(tokens, named.first):
            return True
        telling, said = _telling(keys), f" {' '.join(keys)} "
        return (
            not telling
            or self._has_near(telling)
            or (said in self._of_user and self._is_of_user(tokens, named.first))
        )

    def has_word(self, tokens: Tokens, place: int) -> bool:
        """Whether an English word frames, or stands in a text of what it is said of.

        One with digits is looked at by `has_digits`.
        """
        key = tokens.keys[place]
        if is_frame(key) or digits_in(key):
            return True
        stems = stems_of(key)
        if not stems.isdisjoint(self._stems_of_item):
            return True
        return not stems.isdisjoint(self._stems_of_user) and self._is_of_user(tokens, place)

    def _is_of_user(self, tokens: Tokens, place: int) -> bool:
        """Whether the text says of the user what stands there."""
        start = tokens.spans[place][0]
        own = title_spans(tokens.text, self._texts.item_title)
        after_title = max((end for _, end in own if end <= start), default=0)
        return _OF_USER.search(tokens.text[after_title:start]) is not None

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


def _telling(keys: Iterable[str]) -> list[str]:
    """The words of a name that say something of an item."""
    return [key for key in keys if not is_frame(key)]


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


def _adjectives(tokens: Tokens, support: _Support, named: Sequence[Named]) -> set[tuple[int, int]]:
    """Supported adjectives right before an aspect that stand before it in no text."""
    return {
        (tokens.spans[each.first - 1][0], each.end)
        for each in named
        if each.first
        and tokens.gap(each.first).isspace()
        and tags().get(tokens.word(each.first - 1).casefold()) == "JJ"
        and not is_frame(tokens.keys[each.first - 1])
        and support.has_word(tokens, each.first - 1)
        and not support.has_words(tokens.keys[each.first - 1 : each.stop])
        and not support.has_opinion(tokens.keys[each.first - 1], each.name)
    }
