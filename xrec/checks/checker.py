"""All checks of generated texts, and the plain sentence that replaces a refused text."""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

from xrec.checks.entailment import Entailment
from xrec.checks.phrases import AspectNames, read_word_list
from xrec.checks.plain import plain_sentence, words_of, written_as_in
from xrec.checks.support import NUMBER_RULES, Claims, unsupported_spans, words_to_blame
from xrec.checks.tokens import tokens_of
from xrec.checks.tone import why_not_positive
from xrec.config import ChecksConfig, PlainTemplates, StorageConfig
from xrec.data import NamedEvidence
from xrec.data.language import sentence_ends, title_spans, without_spans
from xrec.errors import Failure

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_PEOPLE = re.compile(r"\b(?:you|your|people|others)\b", re.IGNORECASE)


class Checker:
    """Checks texts about the items of a catalog with the aspects `vocabulary`.

    are_written: whether aspects are written in the vocabulary's grammatical number: "Irish pub",
        even if the item's profile says "fans of Irish pubs".

    The first text takes a few seconds longer than later ones, because lexicons and lists are read.
    """

    def __init__(
        self,
        vocabulary: Iterable[str] = (),
        storage: StorageConfig | None = None,
        *,
        are_written: bool = False,
    ):
        self._are_written = are_written
        self._vocabulary = tuple(vocabulary)
        self._word_list = cache(lambda uri: read_word_list(uri, storage or StorageConfig()))
        self._entailment = cache(Entailment)

    @cached_property
    def aspects(self) -> AspectNames:
        """Finds the aspects of the vocabulary in texts."""
        return AspectNames(self._vocabulary)

    def refusal(
        self, text: str, texts: PairTexts, checks: ChecksConfig, further: Sequence[str] = ()
    ) -> Failure | None:
        """Return the first reason to refuse `text`, which is about the pair `texts`, or None.

        `further` are additional texts that may be cited. Raises DataError if the list of unsafe
        words cannot be read, ModelError if the entailment model cannot be read.
        """
        claims = Claims(text, texts, self.aspects)
        return (
            self._unsafe(claims, checks)
            or self.refusal_of_any(texts, checks)
            or _complained(claims, checks)
            or _not_positive(claims, checks)
            or _unsupported(claims, checks, further)
            or _unchosen(claims, checks)
            or _named_twice(claims, checks)
            or self._not_entailed(claims, checks)
        )

    def refusal_of_any(self, texts: PairTexts, checks: ChecksConfig) -> Failure | None:
        """Return a reason to refuse any text about the pair `texts`, or None."""
        if checks.unsupported and not (texts.item_profile.strip() or texts.menu or texts.aspects):
            return Failure("unsupported", "nothing is known about the item: no profile, no aspects")
        return None

    def evidence(self, text: str, texts: PairTexts) -> tuple[NamedEvidence, ...]:
        """Return the evidence for a pair's chosen aspects, and whether `text` names each one."""
        return _evidence(Claims(text, texts, self.aspects))

    def made_up_numbers(self, text: str, texts: PairTexts) -> list[str]:
        """Return the numbers in a text that are in none of the texts and counts of its pair."""
        claims = Claims(text, texts, self.aspects)
        spans = unsupported_spans(claims, rules=NUMBER_RULES)
        return [claims.tokens.text[start:end] for start, end in spans]

    def complaint(self, text: str, texts: PairTexts) -> str:
        """Return the words with which a text names what its user complains of, or "".

        Names inside the item's title do not count.
        """
        return _complaint(Claims(text, texts, self.aspects))

    def as_written(self, texts: PairTexts) -> Callable[[str], str]:
        """Return a function that writes an aspect as the item's profile does, if it names it."""
        return written_as_in(texts, self.aspects, are_written=self._are_written)

    def plain(
        self, texts: PairTexts, templates: PlainTemplates, min_evidence: int, checks: ChecksConfig
    ) -> str | None:
        """Return the plain sentence of a pair if there is enough evidence and it passes the checks.

        If the sentence fails them with the reviewers' words, it is tried without. By design it
        names one or two chosen aspects, so `min_chosen` is limited to 1, and it cites counts, so
        the entailment check is skipped.
        """
        if not texts.aspects:
            return None  # without reading the profile, which may be long
        written = self.as_written(texts)
        changes = {"min_chosen": min(checks.min_chosen, 1), "entailment": None}
        for source in (texts, texts.unquoted):
            sentence = plain_sentence(source, templates, min_evidence, written)
            words, plain_checks = words_of(templates), checks.model_copy(update=changes)
            if sentence and not self.refusal(sentence, texts, plain_checks, words):
                return sentence
        return None

    def _unsafe(self, claims: Claims, checks: ChecksConfig) -> Failure | None:
        if checks.unsafe_words is None:
            return None
        for start, end in self._word_list(checks.unsafe_words).find(claims.tokens):
            if not any(first <= start and end <= last for first, last in claims.titles):
                word = claims.tokens.text[start:end]
                return Failure("unsafe", f"{word!r} is on the list {checks.unsafe_words}", (word,))
        return None

    def _not_entailed(self, claims: Claims, checks: ChecksConfig) -> Failure | None:
        if checks.entailment is None:
            return None
        why = self._entailment(checks.entailment).why_not(claims.text, claims.texts)
        return Failure("unsupported", f"model {checks.entailment}: {why}") if why else None


def _complaint(claims: Claims) -> str:
    if not claims.texts.complaints:
        return ""
    complaints = {*map(claims.names.same, claims.texts.complaints)}
    found = (each for each in claims.untitled_aspects if each.name in complaints)
    return next((claims.tokens.text[each.start : each.end] for each in found), "")


def _complained(claims: Claims, checks: ChecksConfig) -> Failure | None:
    if checks.complained and (word := _complaint(claims)):
        return Failure("complained", f"the user complains of this: {word!r}", (word,))
    return None


def _not_positive(claims: Claims, checks: ChecksConfig) -> Failure | None:
    why = why_not_positive(claims) if checks.not_positive else None
    return Failure("not_positive", why) if why else None


def _unsupported(claims: Claims, checks: ChecksConfig, further: Sequence[str]) -> Failure | None:
    if not checks.unsupported:
        return None
    if name := _misused_evidence(claims.text, claims.texts):
        message = f"it names {name!r}, the item of the evidence, but nobody who chose it"
        return Failure("unsupported", message)
    spans = unsupported_spans(claims, further)
    if not spans:
        return None
    text = claims.tokens.text
    shown = ", ".join(dict.fromkeys(repr(text[start:end]) for start, end in spans))
    message = f"neither the prompt nor the item's menu of aspects supports: {shown}"
    return Failure("unsupported", message, tuple(words_to_blame(claims, spans)))


def _unchosen(claims: Claims, checks: ChecksConfig) -> Failure | None:
    chosen = claims.texts.aspects
    least = min(checks.min_chosen, len(chosen))
    num_named = sum(aspect.is_named for aspect in _evidence(claims)) if least else 0
    if num_named >= least:
        return None
    shown = ", ".join(repr(each.aspect) for each in chosen)
    message = f"it names {num_named} of the chosen aspects ({shown}); expected at least {least}"
    return Failure("unchosen", message)


def _evidence(claims: Claims) -> tuple[NamedEvidence, ...]:
    return tuple(
        NamedEvidence(**vars(chosen), is_named=claims.names.same(chosen.aspect) in claims.named)
        for chosen in claims.texts.aspects
    )


def _named_twice(claims: Claims, checks: ChecksConfig) -> Failure | None:
    """Refuse a sentence that names the title or an aspect twice, or an aspect from the title.

    Aspects inside the title itself do not count.
    """
    if not checks.named_twice:
        return None
    title, aspects = claims.texts.item_title, claims.untitled_aspects
    ends = sentence_ends(without_spans(claims.tokens.text, claims.titles))
    names = [(start, title) for start, _ in claims.titles]
    names += [(named.start, named.name) for named in aspects]
    counts = Counter((bisect(ends, start), name) for start, name in names)
    twice = [name for (_, name), count in counts.items() if count > 1]
    words = set(tokens_of(title).keys)
    twice += [named.name for named in aspects if words.issuperset(tokens_of(named.name).keys)]
    if not twice:
        return None
    message = f"{twice[0]!r} is named twice in one sentence, or is already in the title"
    return Failure("named_twice", message)


def _misused_evidence(text: str, texts: PairTexts) -> str:
    """Return the supporting item's name if a sentence has it without its people, or "".

    "You went to The Fox" is evidence; "a tea room in The Fox" is made up.
    """
    name = "" if texts.people is None or not texts.people.item_id else texts.people.name
    if not name or name not in text:
        return ""
    other, start = without_spans(text, title_spans(text, texts.item_title)), 0
    for end in [*sentence_ends(other), len(other)]:
        sentence, start = other[start:end], end
        if name in sentence and not _PEOPLE.search(sentence):
            return name
    return ""
