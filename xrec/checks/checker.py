"""The checks of finished texts, and the sentence that stands in for a text that fails them."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from xrec.checks.phrases import AspectNames, WordList, read_word_list
from xrec.checks.plain import plain_sentence, words_of
from xrec.checks.support import unsupported_spans, words_to_blame
from xrec.checks.tokens import tokens_of
from xrec.checks.tone import why_not_positive
from xrec.config import CheckFailure, ChecksConfig, PlainTemplates, StorageConfig
from xrec.data.english import with_capitals
from xrec.data.evidence import NamedEvidence
from xrec.data.sentences import sentence_ends
from xrec.data.titles import composed, title_spans, without_spans

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts


_POSSESSIVE = re.compile("['\u2019]s$")
_LIST_MARKS = " \t\r\n\"'\u201c\u2018(*\u2022-\u2013"


@dataclass(frozen=True)
class Refusal:
    """Why a text may not be shown; `message` is for people, `words` are to blame, if some are."""

    reason: CheckFailure
    message: str
    words: tuple[str, ...] = ()


class Checker:
    """Checks texts about the items of a catalogue with the aspects `vocabulary`.

    are_written: whether the vocabulary has them in the number in which they are to be written. Of a
        pub for "fans of Irish pubs" it has an Irish pub.

    The first text takes a few seconds more than the others: lexicons and lists are read for it.
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
        self._storage = storage or StorageConfig()
        self._lists: dict[str, WordList] = {}

    @cached_property
    def aspects(self) -> AspectNames:
        """Finds the aspects of the vocabulary in texts."""
        return AspectNames(self._vocabulary)

    def refusal(
        self, text: str, texts: PairTexts, checks: ChecksConfig, further: Sequence[str] = ()
    ) -> Refusal | None:
        """The first reason why `text`, which is about the pair `texts`, may not be shown, or None.

        `further` are texts beside those of the pair that may be cited. Raises
        DataError if the list of words cannot be read.
        """
        if checks.unsafe_words is not None and (word := self._unsafe_word(text, texts, checks)):
            return Refusal("unsafe", f"{word!r} is on the list {checks.unsafe_words}", (word,))
        if unknown := self.refusal_of_any(texts, checks):
            return unknown
        if checks.not_positive and (why := why_not_positive(text, texts, self.aspects)):
            return Refusal("not_positive", why)
        if checks.unsupported and (refusal := self._unsupported(text, texts, further)):
            return refusal
        if too_few := self._names_too_few(text, texts, checks.min_chosen):
            return Refusal("unchosen", too_few)
        if checks.named_twice and (aspect := self._named_twice(text, texts)):
            return Refusal(
                "named_twice", f"{aspect!r} is named twice in a sentence of it, or by the title too"
            )
        return None

    def refusal_of_any(self, texts: PairTexts, checks: ChecksConfig) -> Refusal | None:
        """Why no text about the pair `texts` can be shown, whatever it says; None if one may be."""
        if checks.unsupported and not (texts.item_profile.strip() or texts.menu or texts.aspects):
            return Refusal("unsupported", "nothing is known of the item: no profile, no aspect")
        return None

    def evidence(self, text: str, texts: PairTexts) -> tuple[NamedEvidence, ...]:
        """The chosen aspects of a pair, each with whether `text` names it."""
        if not texts.aspects:
            return ()
        are_named = self.aspects.are_named((chosen.aspect for chosen in texts.aspects), text)
        return tuple(
            NamedEvidence(**vars(chosen), is_named=is_named)
            for chosen, is_named in zip(texts.aspects, are_named, strict=True)
        )

    def as_written(self, texts: PairTexts) -> Callable[[str], str]:
        """How an aspect is to be written: as the item's profile has it, if it names it.

        Where it begins a sentence or stands in a name ("Busloop Burgers") its capitals say nothing,
        and the first half of "taco stand" is no form of tacos.
        """
        profile = composed(texts.item_profile)
        own, ends = title_spans(profile, texts.item_title), sentence_ends(profile)
        forms = dict[str, str]()
        for each in self.aspects.find(profile):
            in_name = each.is_within(own) or _is_in_a_name(profile, each.start, each.end)
            if not in_name and not _begins_a_sentence(profile, each.start, ends):
                form = _POSSESSIVE.sub("", profile[each.start : each.end])
                forms[each.name] = max(form, forms.get(each.name, form))  # small letters are larger

        def written(aspect: str) -> str:
            form = forms.get(aspect, "")
            is_known = form.lower() == aspect if self._are_written else len(form) >= len(aspect)
            return form if is_known else with_capitals(aspect)

        return written

    def plain(
        self, texts: PairTexts, templates: PlainTemplates, min_evidence: int, checks: ChecksConfig
    ) -> str | None:
        """The plain sentence of a pair, if there is enough evidence and it passes the checks.

        If it does not pass them with the words of reviewers, it is tried without. It names one or
        two chosen aspects by what it is, so `min_chosen` asks for no more than one.
        """
        if not texts.aspects:
            return None  # without reading the profile, which may be long
        written = self.as_written(texts)
        checks = checks.model_copy(update={"min_chosen": min(checks.min_chosen, 1)})
        for said in (texts, texts.unquoted):
            sentence = plain_sentence(said, templates, min_evidence, written)
            if sentence and not self.refusal(sentence, texts, checks, words_of(templates)):
                return sentence
        return None

    def _unsupported(self, text: str, texts: PairTexts, further: Sequence[str]) -> Refusal | None:
        tokens = tokens_of(text)
        spans = unsupported_spans(tokens, texts, self.aspects, further)
        if not spans:
            return None
        words = dict.fromkeys(tokens.text[start:end] for start, end in spans)
        shown = ", ".join(map(repr, words))
        message = f"neither the prompt nor the item's menu of aspects has: {shown}"
        return Refusal("unsupported", message, tuple(words_to_blame(tokens, spans, texts)))

    def _names_too_few(self, text: str, texts: PairTexts, min_chosen: int) -> str:
        """Why the text is refused for the aspects that it does not name; empty if it is not."""
        least = min(min_chosen, len(texts.aspects))
        num_named = sum(each.is_named for each in self.evidence(text, texts)) if least else 0
        if num_named >= least:
            return ""
        shown = ", ".join(repr(chosen.aspect) for chosen in texts.aspects)
        return f"it names {num_named} of the aspects that were chosen ({shown}), not {least}"

    def _named_twice(self, text: str, texts: PairTexts) -> str:
        """The title or an aspect that a sentence names twice, or what the item's title calls it.

        Empty if there is none. An aspect that stands in the title itself does not count.
        """
        text = composed(text)
        own = title_spans(text, texts.item_title)
        ends = sentence_ends(without_spans(text, own))
        of_titles = [bisect(ends, start) for start, _ in own]
        if len(set(of_titles)) < len(of_titles):
            return texts.item_title
        of_title = set(tokens_of(texts.item_title).keys)
        named: set[tuple[int, str]] = set()
        for found in self.aspects.find(text):
            if found.is_within(own):
                continue
            key = bisect(ends, found.start), found.name
            if key in named or of_title.issuperset(tokens_of(found.name).keys):
                return found.name
            named.add(key)
        return ""

    def _unsafe_word(self, text: str, texts: PairTexts, checks: ChecksConfig) -> str | None:
        assert checks.unsafe_words is not None
        text = composed(text)
        own = title_spans(text, texts.item_title)
        for start, end in self._list(checks.unsafe_words).find(text):
            if not any(first <= start and end <= last for first, last in own):
                return text[start:end]
        return None

    def _list(self, uri: str) -> WordList:
        if uri not in self._lists:
            self._lists[uri] = read_word_list(uri, self._storage)
        return self._lists[uri]


def _is_in_a_name(text: str, start: int, end: int) -> bool:
    """Whether a word with a capital stands there beside another one, or an ampersand."""
    if not text[start].isupper() or text[start:end].isupper():
        return False
    head, blank, rest = text[:start].rpartition(" ")
    before = head.rpartition(" ")[2][:1] if blank and not rest else ""
    after = text[end + 1 : end + 2] if text[end : end + 1] == " " else ""
    return any(beside.isupper() or beside == "&" for beside in (before, after))


def _begins_a_sentence(text: str, start: int, ends: Sequence[int]) -> bool:
    """Whether a sentence, a line or an entry of a list begins there."""
    before = text[:start]
    bare = before.rstrip(_LIST_MARKS)
    if not bare or bare.endswith(":") or "\n" in before[len(bare) :]:
        return True
    return any(len(bare) <= end <= start for end in ends)
