"""From generated text to explanation: titles are filled in, and what breaks a rule is refused.

Where a text is too long, or was cut by the engine, it ends with its last whole sentence. Words and
sentences are those of any language (xrec.data.language). The rules do not depend on the engine.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from xrec.checks import Checker, Refusal
from xrec.config import DecodingConfig, TextConfig
from xrec.data.language import (
    TitleIndex,
    composed,
    is_noun,
    may_be_doubled,
    other_language,
    sentence_ends,
    solicits,
    title_spans,
    words,
)
from xrec.generate.engine import Completion, Failure
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.title_placeholder import TITLE

ExplanationKind = Literal["written", "plain"]
"""Who wrote a text: the language model, or a template from the evidence."""

_PHRASE_WORDS, _MAX_PHRASE_REPEATS = 3, 3
_MAX_ECHO_TOKENS = 24
_DETERMINERS = frozenset({"the", "a", "an", "its", "their"})
_ENDS_NOTHING = frozenset({"the", "its", "their", "and", "of"})  # English; no words of others
_TITLE = "\ue000"  # a private-use character that stands for the item's title as one word
_HALF_CHARACTER = "\ufffd"  # what the first bytes of a character decode to
# What a model adds to an English sentence that has said its reasons.
_TAIL = re.compile(
    r",?\s(?:making|creating|providing|offering|which|where|while)\b[^.!?]*(?=[.!?]?$)"
)
# Praise of anything, or a caveat, which is mostly made up and no reason.
_FILLER = re.compile(
    r",?\s(?:(?:making|which makes) (?:it|this|them)|despite|(?:even |al)?though)\b"
    r"[^.!?]*(?=[.!?]?$)"
)
_MARKS_AT_END = re.compile(r"[\W_]+$")

_Ids = Sequence[int]


class TextFinisher:
    """Makes explanations of what a model writes about items of the catalogue `titles`.

    `checker` knows the catalogue's aspects; without one there are none.
    """

    def __init__(self, builder: PromptBuilder, titles: TitleIndex, checker: Checker | None = None):
        self._builder = builder
        self._checker = checker or Checker()
        self._placeholder = builder.placeholder
        self._titles = titles

    def first_tokens(self, words: Sequence[str]) -> frozenset[int]:
        """The tokens with which these words begin."""
        return frozenset().union(*map(self._builder.first_tokens, words))

    def failure_of_any(self, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Why nothing can be said of the pair `texts`, whatever is written; None if something may.

        No aspect of such a pair was chosen, so there is no plain sentence of it either.
        """
        if rules.checks.min_chosen and self._builder.prompt.aspects and not texts.aspects:
            message = "no aspect of the item could be chosen that it might name"
            return self.fallback(texts, rules, Failure("unchosen", message))[1]
        failure = _failure(self._checker.refusal_of_any(texts, rules.checks))
        return None if failure is None else self.fallback(texts, rules, failure)[1]

    def finish(
        self,
        completion: Completion,
        prompt: Sequence[int],
        texts: PairTexts,
        decoding: DecodingConfig,
    ) -> tuple[str, Failure | None]:
        """The explanation that `completion` gives, or a text and the reason why it cannot be used.

        `failure_of_any` must be None for the pair. `texts` are those of the prompt: the item's own
        title is filled in, and names that stand in them are allowed.
        """
        text = self._filled(self._builder.decode(list(completion.token_ids)), texts)
        failure = self._repeats(text, completion.token_ids, prompt, texts, decoding.text)
        if failure is None:
            text, failure = _cut(text, texts.item_title, completion, decoding)
        if texts.aspects and (filler := _FILLER.search(text)):
            told = self._checker.evidence(filler[0], texts)
            text = text if any(each.is_named for each in told) else _FILLER.sub("", text)
        failure = failure or self.unfit(text, texts, decoding.text)
        if failure is not None and failure.reason == "unsupported":
            shorter = _TAIL.sub("", text)
            if shorter != text and not self.unfit(shorter, texts, decoding.text):
                text, failure = shorter, None
        if failure is None and decoding.text.is_backed:
            text = self._with_evidence(text, texts, decoding.text)
        return text, failure

    def fallback(
        self, texts: PairTexts, rules: TextConfig, failure: Failure
    ) -> tuple[str, Failure | None]:
        """What is said of a pair of which no text can be used, because of `failure`.

        The plain sentence of its evidence, or "" and why there is none.
        """
        has_evidence = bool(texts.aspects or self._builder.prompt.aspects)
        if rules.fallback == "none" or (rules.fallback == "plain" and not has_evidence):
            return "", failure
        sentence = self._plain(texts, rules) if rules.fallback == "plain" else None
        if sentence is not None:
            return sentence, None
        return "", Failure(
            "abstained", f"no text of it could be used ({failure.reason}: {failure.message})"
        )

    def unfinished(self, token_ids: list[int], texts: PairTexts) -> str | None:
        """What a reader may see of a text that is still being written; None if that must wait.

        It waits while it ends within a character or place-holder, or with an article that goes if
        the title follows, and while it names another item or solicits.
        """
        written = self._builder.tokenizer.decode(token_ids, skip_special_tokens=True).lstrip()
        if (
            written.endswith(_HALF_CHARACTER)
            or self._placeholder.is_broken_in(written)
            or self._placeholder.may_replace_end_of(written, texts.item_title)
        ):
            return None
        text = self._filled(written, texts)
        is_wrong = self.other_title(text, texts) or solicits(text, [texts.item_title])
        return None if is_wrong else text

    def whole_sentences(self, token_ids: list[int], texts: PairTexts, rules: TextConfig) -> str:
        """The sentences of an unfinished text that have ended, whatever follows; "" if none has.

        `token_ids` are those of `unfinished`. A number may follow "No." or "4.", so a sentence has
        ended once there is a letter or a digit of the next one.
        """
        text = _MARKS_AT_END.sub("", self.unfinished(token_ids, texts) or "")
        return _whole_sentences(text, rules.max_words, texts.item_title)

    def passes(
        self, sentences: str, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig
    ) -> bool:
        """Whether `finish` would give the `whole_sentences` if the model had ended with them.

        `ids` are what it wrote so far.
        """
        repeats = self._repeats(sentences, ids, prompt, texts, rules)
        return not (repeats or self.unfit(sentences, texts, rules))

    def _filled(self, written: str, texts: PairTexts) -> str:
        return self._placeholder.fill(composed(written), composed(texts.item_title))

    def other_title(self, text: str, texts: PairTexts) -> str | None:
        """The first name of another item in an explanation of the pair `texts`, or None."""
        context = (texts.user_profile, texts.item_profile)
        return self._titles.other_title(text, texts.item_title, context)

    def _repeats(
        self, text: str, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig
    ) -> Failure | None:
        """Why a text that is empty, or repeats itself or the prompt, cannot be used."""
        refused = _refused(text, texts.item_title, rules)
        return refused or self._echo(ids, prompt, texts, rules)

    def _echo(self, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Why a text that repeats the prompt cannot be used; the prompt has titles filled in."""
        if not rules.refuses_repetition:
            return None
        written = self._builder.decode(list(ids))
        if self._placeholder.is_in(written):
            ids = self._builder.encode_explanation(self._filled(written, texts))
        length = _MAX_ECHO_TOKENS + 1
        if _runs(ids, length).isdisjoint(_runs(prompt, length)):
            return None
        return Failure(
            "prompt_echo",
            f"more than {_MAX_ECHO_TOKENS} tokens in a row are the prompt's "
            "(decoding.text.refuses_repetition)",
        )

    def unfit(self, text: str, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Why a finished text about the pair `texts` may not be shown; None if it may."""
        other = self.other_title(text, texts)
        if other is not None:
            return Failure(
                "names_another_item",
                f"it names {other!r}, another item of the catalogue; this one's title is "
                f"{texts.item_title!r}",
                (other,),
            )
        title = composed(texts.item_title).strip()
        if solicits(text, [title]):
            message = "it has personal data or a link, or calls its reader to buy or click"
            return Failure("solicits", message)
        language = self._builder.prompt.language
        if language is not None and (other := other_language(text, language)):
            return Failure("other_language", f"it is in {other}, and prompt.language = {language}")
        untitled = text.replace(title, _TITLE) if title else text
        if self._placeholder.is_broken_in(untitled):
            return Failure(
                "broken_placeholder",
                f"a part of {TITLE!r}, which stands for the title, is left in it",
            )
        profiles = (texts.user_profile, texts.item_profile)
        if made_up := self._placeholder.made_up_in(untitled, *profiles):
            return Failure(
                "broken_placeholder",
                f"{made_up!r} is in it, as if it stood for something; only {TITLE!r} does",
            )
        return _failure(self._checker.refusal(text, texts, rules.checks))

    def _with_evidence(self, text: str, texts: PairTexts, rules: TextConfig) -> str:
        """`text`, and the plain sentence of the aspects that it names, then of others chosen.

        What it names is backed even if a single review says so.
        """
        told = list(zip(texts.aspects, self._checker.evidence(text, texts), strict=True))
        named = [chosen for chosen, each in told if each.is_named]
        others = [
            chosen
            for chosen, each in told
            if not each.is_named and chosen.item_reviews >= rules.min_evidence
        ]
        untitled = {**rules.plain, "of_title": ""}
        sentence = self._plain(
            replace(texts, aspects=(*named, *others)),
            rules.model_copy(update={"plain": untitled, "min_evidence": 1}),
        )
        if sentence is None:
            return text
        whole = f"{text}{'.' if text[-1].isalnum() else ''} {sentence}"
        return whole if _is_within(whole, rules.max_words) else text

    def _plain(self, texts: PairTexts, rules: TextConfig) -> str | None:
        """The plain sentence of a pair; who names another item or solicits is not quoted."""
        titled = replace(texts, item_title=texts.item_title or self._builder.prompt.untitled)
        for said in (titled, titled.unquoted):
            sentence = self._checker.plain(said, rules.plain, rules.min_evidence, rules.checks)
            if sentence is None or not (
                self.other_title(sentence, texts) or solicits(sentence, [texts.item_title])
            ):
                return sentence
        return None


def _failure(refusal: Refusal | None) -> Failure | None:
    return None if refusal is None else Failure(**vars(refusal))


def _refused(text: str, title: str, rules: TextConfig) -> Failure | None:
    if not text:
        return Failure("empty_text", "the model ended without a word")
    if not rules.refuses_repetition:
        return None
    for start, end in reversed(title_spans(text, title)):  # it counts as one word
        text = text[:start] + _TITLE + text[end:]
    found = words(text.lower())
    if found[-1:] and found[-1] in _ENDS_NOTHING:
        return Failure("no_full_sentence", f"it ends with {found[-1]!r}")
    phrases = Counter(zip(*(found[start:] for start in range(_PHRASE_WORDS)), strict=False))
    phrase, count = max(phrases.items(), key=lambda item: item[1], default=((), 0))
    if count > _MAX_PHRASE_REPEATS:
        return Failure(
            "repetitive_text",
            f"{_shown(phrase)!r} stands {count} times in it, {_MAX_PHRASE_REPEATS} at most may "
            "(decoding.text.refuses_repetition)",
        )
    if stuttered := _stuttered(found) or _joined_to_itself(found):
        return Failure("repetitive_text", f"{_shown(stuttered)!r} stands twice in a row in it")
    return None


def _cut(
    text: str, title: str, completion: Completion, decoding: DecodingConfig
) -> tuple[str, Failure | None]:
    """The text in at most `max_words` words, ended by a whole sentence if it had to be cut."""
    max_words = decoding.text.max_words
    num_words = len(words(text))
    if max_words is None or (num_words <= max_words and completion.finish_reason != "length"):
        return text, None
    sentences = _whole_sentences(text, max_words, title)
    if sentences:
        return sentences, None
    limit = (
        f"text.max_words={max_words}"
        if num_words > max_words
        else f"max_new_tokens={decoding.max_new_tokens}"
    )
    return text, Failure("no_full_sentence", f"no sentence of it ends within decoding.{limit}")


def _whole_sentences(text: str, max_words: int | None, title: str) -> str:
    """The beginning of `text` that ends with the last sentence within `max_words` words, or "".

    A full stop within the item's `title` ends no sentence.
    """
    title = composed(title).strip()
    written = re.finditer(re.escape(title), text) if title else ()  # as in "Dr. Pepper's tea"
    places = [*title_spans(text, title), *(match.span() for match in written)]
    ends = [
        end for end in sentence_ends(text) if not any(start < end < stop for start, stop in places)
    ]
    fits = (end for end in reversed(ends) if _is_within(text[:end], max_words))
    return text[: next(fits, 0)]


def cut_to_words(text: str, max_words: int | None, title: str) -> str:
    """`text`, which is an explanation of the item `title` already, in at most `max_words` words.

    A longer text ends with its last whole sentence; "" if none ends within so many words.
    """
    return text if _is_within(text, max_words) else _whole_sentences(text, max_words, title)


def _is_within(text: str, max_words: int | None) -> bool:
    return max_words is None or len(words(text)) <= max_words


def _stuttered(found: Sequence[str]) -> Sequence[str]:
    """A phrase of three words or more that directly follows itself; empty if none does."""
    for length in range(_PHRASE_WORDS, len(found) // 2 + 1):
        for start in range(len(found) - 2 * length + 1):
            middle = start + length
            if found[start:middle] == found[middle : middle + length]:
                return found[start:middle]
    return ()


def _joined_to_itself(found: Sequence[str]) -> Sequence[str]:
    """A phrase that "and" joins to itself, as in "the tone and the tone"; empty if none is.

    "More and more", "over and over", and "years and years" are English, and so is "coffee and
    coffee shops".
    """
    said = [word for word in found if word not in _DETERMINERS]
    for place, word in enumerate(said):
        if word != "and":
            continue
        for length in range(1, min(place, len(said) - place - 1) + 1):
            phrase, stop = said[place - length : place], place + 1 + length
            goes_on = stop < len(said) and is_noun(said[stop]) and is_noun(phrase[-1])
            if phrase == said[place + 1 : stop] and not (goes_on or may_be_doubled(phrase)):
                return phrase
    return ()


def _shown(phrase: Sequence[str]) -> str:
    return " ".join(phrase).replace(_TITLE, "the title")


def _runs(ids: Sequence[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)}
