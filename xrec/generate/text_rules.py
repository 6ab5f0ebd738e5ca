"""Turn generated texts into explanations: fill in titles, and refuse texts that break a rule.

A text that is too long, or that the engine cut, ends with its last whole sentence. Words and
sentences are found in any language (xrec.data.language). The rules do not depend on the engine.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from xrec.checks import Checker
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
from xrec.errors import Failure
from xrec.generate.engine import Completion
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.title_placeholder import TITLE

ExplanationKind = Literal["written", "plain"]
"""How a text was made: by the language model, or from the evidence with a template."""

_PHRASE_WORDS, _MAX_PHRASE_REPEATS = 3, 3
_MAX_ECHO_TOKENS = 24
_DETERMINERS = frozenset({"the", "a", "an", "its", "their"})
_ENDS_NOTHING = frozenset({"the", "its", "their", "and", "of"})  # words in no other language
_TITLE = "\ue000"  # a private-use character that replaces the item's title and counts as a word
_HALF_CHARACTER = "\ufffd"  # what the first bytes of a character decode to
# A clause that models add to an English sentence after its reasons.
_TAIL = re.compile(
    r",?\s(?:making|creating|providing|offering|which|where|while)\b[^.!?]*(?=[.!?]?$)"
)
# Praise that fits anything, or a caveat: mostly made up, and not a reason.
_FILLER = re.compile(
    r",?\s(?:(?:making|which makes) (?:it|this|them)|despite|(?:even |al)?though)\b"
    r"[^.!?]*(?=[.!?]?$)"
)
_MARKS_AT_END = re.compile(r"[\W_]+$")

_Ids = Sequence[int]


class TextFinisher:
    """Turns a model's texts about items into explanations.

    titles: the titles of all items. checker: knows the aspects; without one, there are none.
    """

    def __init__(self, builder: PromptBuilder, titles: TitleIndex, checker: Checker | None = None):
        self._builder = builder
        self._checker = checker or Checker()
        self._placeholder = builder.placeholder
        self._titles = titles

    def first_tokens(self, words: Sequence[str]) -> frozenset[int]:
        """Return the first tokens of these words."""
        return frozenset().union(*map(self._builder.first_tokens, words))

    def failure_of_any(self, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Return why the model cannot write any text about the pair `texts`; None if it may.

        Such a pair has no chosen aspect, so its `fallback` is at most what people did.
        """
        if rules.checks.min_chosen and self._builder.prompt.aspects and not texts.aspects:
            message = "the item has no aspect that the text could name"
            return Failure("unchosen", message)
        return self._checker.refusal_of_any(texts, rules.checks)

    def finish(
        self,
        completion: Completion,
        prompt: Sequence[int],
        texts: PairTexts,
        decoding: DecodingConfig,
    ) -> tuple[str, Failure | None]:
        """Return the explanation made from `completion`, and why it cannot be used, if it cannot.

        `failure_of_any` must be None for the pair.

        texts: those of the prompt. The item's title is filled in, and names in them are allowed.
        """
        text = self._filled(self._builder.decode(list(completion.token_ids)), texts)
        failure = self._repeats(text, completion.token_ids, prompt, texts, decoding.text)
        if failure is None:
            text, failure = _cut(text, texts.item_title, completion, decoding)
        if texts.aspects and (filler := _FILLER.search(text)):
            aspects = self._checker.evidence(filler[0], texts)
            text = text if any(aspect.is_named for aspect in aspects) else _FILLER.sub("", text)
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
        """Return the plain sentence that replaces a refused text, or "" and why there is none.

        failure: why the text was refused.
        """
        has_evidence = bool(texts.aspects or self._builder.prompt.aspects or texts.people)
        if rules.fallback == "none" or (rules.fallback == "plain" and not has_evidence):
            return "", failure
        sentence = self._plain(texts, rules) if rules.fallback == "plain" else None
        if sentence is not None:
            return sentence, None
        return "", Failure(
            "abstained", f"no text could be used ({failure.reason}: {failure.message})"
        )

    def unfinished(self, token_ids: list[int], texts: PairTexts) -> str | None:
        """Return an unfinished text for display; None if it must not be shown yet.

        It is not shown while it ends inside a character or placeholder, or with an article that the
        title may replace, or while it names another item or solicits.
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
        """Return the complete sentences of an unfinished text; "" if there are none.

        A sentence is complete once the next one has a letter or a digit, because a number may
        follow "No." or "4.".
        """
        text = _MARKS_AT_END.sub("", self.unfinished(token_ids, texts) or "")
        return _whole_sentences(text, rules.max_words, texts.item_title)

    def passes(
        self, sentences: str, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig
    ) -> bool:
        """Return whether `finish` would accept the `whole_sentences` if the model ended there.

        ids: the tokens of the text so far.
        """
        repeats = self._repeats(sentences, ids, prompt, texts, rules)
        return not (repeats or self.unfit(sentences, texts, rules))

    def _filled(self, written: str, texts: PairTexts) -> str:
        return self._placeholder.fill(composed(written), composed(texts.item_title))

    def other_title(self, text: str, texts: PairTexts) -> str | None:
        """Return the first title of another item in a text about the pair `texts`, or None."""
        people = () if texts.people is None else (texts.people.sentence,)
        context = (texts.user_profile, texts.item_profile, *people)
        return self._titles.other_title(text, texts.item_title, context)

    def _repeats(
        self, text: str, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig
    ) -> Failure | None:
        """Return a failure if the text is empty, or repeats itself or the prompt."""
        failure = _empty_or_repetitive(text, texts.item_title, rules)
        return failure or self._echo(ids, prompt, texts, rules)

    def _echo(self, ids: _Ids, prompt: _Ids, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Return a failure if the text, with its title filled in, repeats the prompt."""
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
            f"more than {_MAX_ECHO_TOKENS} consecutive tokens are from the prompt "
            "(decoding.text.refuses_repetition)",
        )

    def unfit(self, text: str, texts: PairTexts, rules: TextConfig) -> Failure | None:
        """Return why a finished text about the pair `texts` may not be shown; None if it may."""
        other = self.other_title(text, texts)
        if other is not None:
            return Failure(
                "names_another_item",
                f"it names another item, {other!r}; the title of this one is {texts.item_title!r}",
                (other,),
            )
        title = composed(texts.item_title).strip()
        if solicits(text, [title]):
            message = "it contains personal data or a link, or tells the reader to buy or click"
            return Failure("solicits", message)
        language = self._builder.prompt.language
        if language is not None and (other := other_language(text, language)):
            return Failure("other_language", f"it is in {other}, but prompt.language = {language}")
        untitled = text.replace(title, _TITLE) if title else text
        if self._placeholder.is_broken_in(untitled):
            return Failure(
                "broken_placeholder",
                f"it contains a part of the title placeholder {TITLE!r}",
            )
        profiles = (texts.user_profile, texts.item_profile)
        if made_up := self._placeholder.made_up_in(untitled, *profiles):
            return Failure(
                "broken_placeholder",
                f"it contains the placeholder {made_up!r}; the only valid one is {TITLE!r}",
            )
        if self._builder.prompt.people and (numbers := self._checker.made_up_numbers(text, texts)):
            return Failure("unsupported", f"no evidence has the numbers {numbers}", tuple(numbers))
        return self._checker.refusal(text, texts, rules.checks)

    def _with_evidence(self, text: str, texts: PairTexts, rules: TextConfig) -> str:
        """Return `text` and a plain sentence on the aspects that it names, then on other ones.

        A named aspect is included even if only one review mentions it. What people did follows,
        unless the text names the supporting item.
        """
        if texts.people is not None and texts.people.name and texts.people.name in text:
            texts = replace(texts, people=None)
        aspects = list(zip(texts.aspects, self._checker.evidence(text, texts), strict=True))
        named = [chosen for chosen, evidence in aspects if evidence.is_named]
        others = [
            chosen
            for chosen, evidence in aspects
            if not evidence.is_named and chosen.item_reviews >= rules.min_evidence
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
        """Return the plain sentences of a pair: on its aspects, and on what people did."""
        found = self._of_aspects(texts, rules), self._of_people(texts)
        sentences = [sentence for sentence in found if sentence is not None]
        if not sentences:
            return None
        whole = " ".join(sentences)
        return whole if _is_within(whole, rules.max_words) else sentences[0]

    def _of_people(self, texts: PairTexts) -> str | None:
        """Return the sentence on what people did, unless it solicits or is in another language."""
        if texts.people is None:
            return None
        sentence, language = texts.people.sentence, self._builder.prompt.language
        is_foreign = language is not None and other_language(sentence, language) is not None
        is_wrong = is_foreign or solicits(sentence, [texts.people.name, texts.item_title])
        return None if is_wrong else sentence

    def _of_aspects(self, texts: PairTexts, rules: TextConfig) -> str | None:
        """Return the sentence on aspects, without quotes that name another item or solicit."""
        titled = replace(texts, item_title=texts.item_title or self._builder.prompt.untitled)
        for source in (titled, titled.unquoted):
            sentence = self._checker.plain(source, rules.plain, rules.min_evidence, rules.checks)
            if sentence is None or not (
                self.other_title(sentence, texts) or solicits(sentence, [texts.item_title])
            ):
                return sentence
        return None


def _empty_or_repetitive(text: str, title: str, rules: TextConfig) -> Failure | None:
    if not text:
        return Failure("empty_text", "the model wrote nothing")
    if not rules.refuses_repetition:
        return None
    for start, end in reversed(title_spans(text, title)):  # the title counts as one word
        text = text[:start] + _TITLE + text[end:]
    keys = words(text.lower())
    if keys[-1:] and keys[-1] in _ENDS_NOTHING:
        return Failure("no_full_sentence", f"it ends with {keys[-1]!r}")
    phrases = Counter(zip(*(keys[start:] for start in range(_PHRASE_WORDS)), strict=False))
    phrase, count = max(phrases.items(), key=lambda item: item[1], default=((), 0))
    if count > _MAX_PHRASE_REPEATS:
        return Failure(
            "repetitive_text",
            f"it has {_shown(phrase)!r} {count} times; expected at most {_MAX_PHRASE_REPEATS} "
            "(decoding.text.refuses_repetition)",
        )
    if stuttered := _stuttered(keys) or _joined_to_itself(keys):
        return Failure("repetitive_text", f"it has {_shown(stuttered)!r} twice in a row")
    return None


def _cut(
    text: str, title: str, completion: Completion, decoding: DecodingConfig
) -> tuple[str, Failure | None]:
    """Return the text in at most `max_words` words, cut after a whole sentence if necessary."""
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
    return text, Failure("no_full_sentence", f"no sentence ends within decoding.{limit}")


def _whole_sentences(text: str, max_words: int | None, title: str) -> str:
    """Return the whole sentences at the start of `text` with at most `max_words` words, or "".

    A period inside the item's `title` does not end a sentence.
    """
    title = composed(title).strip()
    literal = re.finditer(re.escape(title), text) if title else ()  # as in "Dr. Pepper's tea"
    titles = [*title_spans(text, title), *(match.span() for match in literal)]
    ends = [
        end for end in sentence_ends(text) if not any(start < end < stop for start, stop in titles)
    ]
    fits = (end for end in reversed(ends) if _is_within(text[:end], max_words))
    return text[: next(fits, 0)]


def _is_within(text: str, max_words: int | None) -> bool:
    return max_words is None or len(words(text)) <= max_words


def _stuttered(keys: Sequence[str]) -> Sequence[str]:
    """Return the first phrase of at least three words that directly follows itself, or ()."""
    for length in range(_PHRASE_WORDS, len(keys) // 2 + 1):
        for start in range(len(keys) - 2 * length + 1):
            middle = start + length
            if keys[start:middle] == keys[middle : middle + length]:
                return keys[start:middle]
    return ()


def _joined_to_itself(keys: Sequence[str]) -> Sequence[str]:
    """Return a phrase that "and" joins to itself, as in "the tone and the tone", or ().

    "More and more", "over and over", and "years and years" are idiomatic, and "coffee and coffee
    shops" is not a repetition.
    """
    keys = [word for word in keys if word not in _DETERMINERS]
    for index, word in enumerate(keys):
        if word != "and":
            continue
        for length in range(1, min(index, len(keys) - index - 1) + 1):
            phrase, stop = keys[index - length : index], index + 1 + length
            continues = stop < len(keys) and is_noun(keys[stop]) and is_noun(phrase[-1])
            if phrase == keys[index + 1 : stop] and not (continues or may_be_doubled(phrase)):
                return phrase
    return ()


def _shown(phrase: Sequence[str]) -> str:
    return " ".join(phrase).replace(_TITLE, "the title")


def _runs(ids: Sequence[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)}
