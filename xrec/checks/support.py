"""Find the claims of a text that nothing supports.

In English every word must be supported, except the words that frame a reason and say nothing about
an item (`english.yaml`). In other languages only the vocabulary's aspects and numbers in digits
must be supported.

Support comes from the texts of the prompt, from the aspects chosen for the pair and their counts,
and from the item's menu. The user's profile says what the user likes, not what the item has, so it
supports a word only if the text says it about the user. An adjective before an aspect must also
precede it in these texts or be its opinion, unless it is a framing word: "a warm tone and a bright
display" does not support "a warm display". Words are compared, not meanings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

from xrec.checks.english import data, is_frame, pattern, stem_of, stems_of
from xrec.checks.phrases import AspectNames, Named, PhraseIndex
from xrec.checks.tokens import Tokens, digits_in, number_words, numbers_of, tokens_of
from xrec.data.language import Span, tags, title_spans

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_MOST_BETWEEN = 2  # words that a text may have between those of a name


class Claims:
    """What a text says about the pair `texts`; each part is found when it is first needed.

    names: finds the aspects of the catalog's vocabulary.
    """

    def __init__(self, text: str, texts: PairTexts, names: AspectNames) -> None:
        self.text, self.texts, self.names = text, texts, names

    @cached_property
    def tokens(self) -> Tokens:
        """The words of the text."""
        return tokens_of(self.text)

    @cached_property
    def titles(self) -> list[Span]:
        """Where the item's title is."""
        return title_spans(self.tokens.text, self.texts.item_title)

    @cached_property
    def aspects(self) -> list[Named]:
        """The aspects that the text names."""
        return self.names.find_in(self.tokens)

    @cached_property
    def named(self) -> set[str]:
        """The names of these aspects in the vocabulary."""
        return {each.name for each in self.aspects}

    @property
    def untitled_aspects(self) -> list[Named]:
        """The aspects that the text names outside the item's title."""
        return [named for named in self.aspects if not named.is_within(self.titles)]

    @cached_property
    def rest(self) -> list[int]:
        """The positions of words outside aspects and framing phrases."""
        phrases = [*self.aspects, *_frame_phrases().find_in(self.tokens)]
        within = {index for phrase in phrases for index in range(phrase.first, phrase.stop)}
        return [index for index in range(len(self.tokens)) if index not in within]

    @cached_property
    def numbers(self) -> list[tuple[int, int, str]]:
        """The numbers in words: the first position, the one after the last, and the digits."""
        return list(number_words(self.tokens))

    def is_of_user(self, index: int) -> bool:
        """Return whether the text says the word at `index` about the user."""
        start = self.tokens.spans[index][0]
        after_title = max((end for _, end in self.titles if end <= start), default=0)
        return pattern("of_user").search(self.tokens.text[after_title:start]) is not None

    def adjective_before(self, named: Named) -> str | None:
        """Return the adjective right before an aspect; None if there is none or it is framing."""
        index = named.first - 1
        if index < 0 or not self.tokens.gap(named.first).isspace():
            return None
        says_something = _is_adjective(self.tokens, index) and not is_frame(self.tokens.keys[index])
        return self.tokens.keys[index] if says_something else None


class Support:
    """What supports a text about a pair; `further` are texts in addition to those of the prompt."""

    def __init__(self, texts: PairTexts, further: Sequence[str] = ()) -> None:
        self._texts = texts
        self.known = {chosen.aspect for chosen in texts.aspects} | texts.menu
        opinions = (chosen.opinion for chosen in texts.aspects)
        profile = pattern("caveat").sub(" | ", texts.item_profile)
        people = () if texts.people is None else (texts.people.sentence,)
        self._of_item = _joined((texts.item_title, profile, *opinions, *people, *further))
        self._of_user = _joined((texts.user_profile,))

    @cached_property
    def _item_stems(self) -> set[str]:
        names = (key for name in self.known for key in tokens_of(name).keys)
        return {stem_of(key) for key in (*names, *self._of_item.split())}

    @cached_property
    def _user_stems(self) -> set[str]:
        return {stem_of(key) for key in self._of_user.split()}

    @cached_property
    def numbers(self) -> set[str]:
        """All numbers in the texts and counts, as digits."""
        counts = {str(count) for chosen in self._texts.aspects for count in chosen.counts.values()}
        texts = (self._texts.user_profile, self._of_item)
        return counts.union(*(numbers_of(tokens_of(text)) for text in texts))

    def has_phrase(self, keys: Sequence[str]) -> bool:
        """Return whether one of the texts contains these words in a row."""
        return f" {' '.join(keys)} " in f"{self._of_item}{self._of_user}"

    def has_word(self, claims: Claims, index: int) -> bool:
        """Return whether a word is framing, or is in a text about the item or user it describes."""
        stems = stems_of(claims.tokens.keys[index])
        return (
            is_frame(claims.tokens.keys[index])
            or not stems.isdisjoint(self._item_stems)
            or (not stems.isdisjoint(self._user_stems) and claims.is_of_user(index))
        )

    def has_near(self, keys: Sequence[str]) -> bool:
        """Return whether a text about the item has these words close together.

        "A selection of fine wines" supports "wine selection"; "a warm tone and a bright display"
        does not support "warm display".
        """
        length = len(keys) + _MOST_BETWEEN
        return any(
            set(keys).issubset(part[start : start + length])
            for part in map(str.split, self._of_item.split("|"))
            for start in range(max(1, len(part) - length + 1))
        )

    def has_opinion(self, word: str, aspect: str) -> bool:
        """Return whether the word is in the opinion on this aspect, if it was chosen."""
        opinions = [known.opinion for known in self._texts.aspects if known.aspect == aspect]
        return any(word in tokens_of(opinion).keys for opinion in opinions)


Rule = Callable[[Claims, Support], Iterator[Span]]
"""A function that yields the spans of unsupported claims."""


def _aspects(claims: Claims, support: Support) -> Iterator[Span]:
    """Yield aspects that are not known of the item and not in a text about what they describe."""
    if not claims.aspects:
        return
    known = {*support.known, *map(claims.names.same, support.known)}
    for named in claims.aspects:
        keys = claims.tokens.keys[named.first : named.stop]
        telling = [key for key in keys if not is_frame(key)]
        if not (
            named.name in known
            or not telling
            or (len(keys) == 1 and support.has_word(claims, named.first))
            or support.has_near(telling)
            or (support.has_phrase(keys) and claims.is_of_user(named.first))
        ):
            yield named.start, named.end


def _digits(claims: Claims, support: Support) -> Iterator[Span]:
    """Yield numbers in digits that are in no text and no count."""
    for index in claims.rest:
        numbers, keys = digits_in(claims.tokens.word(index)), [claims.tokens.keys[index]]
        if numbers and not (support.numbers.issuperset(numbers) or support.has_phrase(keys)):
            yield claims.tokens.spans[index]


def _numbers(claims: Claims, support: Support) -> Iterator[Span]:
    """Yield numbers in English words that are in no text and no count."""
    for start, stop, number in claims.numbers:
        is_known = number in support.numbers or support.has_phrase(claims.tokens.keys[start:stop])
        if start in claims.rest and not is_known:
            yield claims.tokens.spans[start][0], claims.tokens.spans[stop - 1][1]


def _words(claims: Claims, support: Support) -> Iterator[Span]:
    """Yield English words that are in no text about what they describe."""
    in_numbers = {index for start, stop, _ in claims.numbers for index in range(start, stop)}
    for index in claims.rest:
        is_number = index in in_numbers or digits_in(claims.tokens.keys[index])
        if not is_number and not support.has_word(claims, index):
            yield claims.tokens.spans[index]


def _adjectives(claims: Claims, support: Support) -> Iterator[Span]:
    """Yield aspects with the English adjective before them if no text has it there."""
    for named in claims.aspects:
        index, adjective = named.first - 1, claims.adjective_before(named)
        if adjective is not None and not (
            support.has_phrase([adjective, *claims.tokens.keys[named.first : named.stop]])
            or support.has_opinion(adjective, named.name)
            or not support.has_word(claims, index)  # `_words` yields the adjective alone
        ):
            yield claims.tokens.spans[index][0], named.end


RULES: tuple[Rule, ...] = (_aspects, _digits)
ENGLISH_RULES: tuple[Rule, ...] = (_numbers, _words, _adjectives)
NUMBER_RULES: tuple[Rule, ...] = (_digits, _numbers)


def unsupported_spans(
    claims: Claims, further: Sequence[str] = (), rules: Sequence[Rule] | None = None
) -> list[Span]:
    """Return the spans of a text that nothing supports, in order.

    further: additional texts that may support it. rules: by default those of its language.
    """
    support = Support(claims.texts, further)
    rules = rules or (*RULES, *(ENGLISH_RULES if claims.tokens.is_english else ()))
    return sorted({span for rule in rules for span in rule(claims, support)})


def words_to_blame(claims: Claims, spans: Iterable[Span]) -> Iterator[str]:
    """Yield the word to blame for each span, without which the model would not have written it.

    This is the first word, adjectives before the span included, that is neither a framing word nor
    in a chosen aspect: "friendly" in "the friendly and helpful staff".
    """
    tokens = claims.tokens
    chosen = {key for known in claims.texts.aspects for key in tokens_of(known.aspect).keys}
    for start, end in spans:
        own = [index for index, span in enumerate(tokens.spans) if start <= span[0] < end]
        first = own[0]
        while _is_adjective(tokens, first - 1) or (
            tokens.keys[first - 1] == "and" and _is_adjective(tokens, first - 2)
        ):
            first -= 1 + (tokens.keys[first - 1] == "and")
        for index in range(first, own[-1] + 1):
            if tokens.keys[index] not in chosen and not is_frame(tokens.keys[index]):
                yield tokens.word(index)
                break


def _is_adjective(tokens: Tokens, index: int) -> bool:
    return index >= 0 and tags().get(tokens.word(index).casefold()) == "JJ"


@cache
def _frame_phrases() -> PhraseIndex:
    return PhraseIndex(data()["frame_phrases"])


def _joined(texts: Iterable[str]) -> str:
    """Join the words of the texts, with bars between texts and where punctuation separates words.

    Things that a text says are missing ("without a bag") are left out.
    """
    words: list[str] = ["|"]
    for text in texts:
        tokens = tokens_of(pattern("denied_words").sub(" | ", text))
        for index, key in enumerate(tokens.keys):
            is_joined = index and tokens.are_joined(index - 1, index + 1)
            words += [key] if is_joined else ["|", key]
        words.append("|")
    return f" {' '.join(words)} "
