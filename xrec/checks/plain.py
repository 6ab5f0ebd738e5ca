"""The plain sentence that replaces a refused text: how many reviews mention which aspects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xrec.checks.phrases import AspectNames
from xrec.checks.tokens import tokens_of
from xrec.config import PlainTemplates, parse_placeholders
from xrec.data import AspectEvidence
from xrec.data.language import composed, sentence_ends, title_spans, with_capitals

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_MOST_ASPECTS = 2
_FEWEST_OF_USER = 2
_POSSESSIVE = re.compile("['\u2019]s$")
# The text before a word that starts a line or a list entry, or follows a colon.
_LINE_START = re.compile("(?:^|[\n:])[ \t\r\n\"'\u201c\u2018(*\u2022\u2013-]*$")
_LIST_MARKS = " \t\"'\u201c\u2018(*\u2022-\u2013"


def plain_sentence(
    texts: PairTexts,
    templates: PlainTemplates,
    min_evidence: int,
    written: Callable[[str], str] = str,
) -> str | None:
    """Return a sentence on the best aspects: "14 of 31 reviews of the Fox mention the tea."

    It names at most two aspects that share no word, with the number of the item's reviews that
    mention them, and the number of the user's reviews if at least two of them, or the only one, do.
    Return None if no aspect is in at least `min_evidence` of the item's reviews. `written` returns
    the form in which to write an aspect.
    """
    named = list[AspectEvidence]()
    for evidence in texts.aspects:
        is_new = not any(_share_a_word(evidence, other) for other in named)
        if evidence.item_reviews >= min_evidence and is_new and len(named) < _MOST_ASPECTS:
            named.append(evidence)
    starts = (templates["first"], templates["second"])
    parts = [
        _part(start, evidence, written(evidence.aspect), texts.item_title, templates)
        for start, evidence in zip(starts, named, strict=False)
    ]
    sentence = "".join(parts) + templates["end"]
    return sentence[0].upper() + sentence[1:] if named else None


def _share_a_word(one: AspectEvidence, other: AspectEvidence) -> bool:
    """Return whether the aspects share a word, like "beers" and "craft beers"."""
    return not set(tokens_of(one.aspect).keys).isdisjoint(tokens_of(other.aspect).keys)


def _part(
    template: str, evidence: AspectEvidence, aspect: str, title: str, templates: PlainTemplates
) -> str:
    opinion = templates["opinion"].format(opinion=evidence.opinion) if evidence.opinion else ""
    values = {
        "aspect": aspect,
        "title": title,
        "of_title": templates["of_title"].format(title=title) if title else "",
        "opinion": opinion,
        "reviews": _form(templates["reviews"], evidence.num_item_reviews),
        "mention": _form(templates["mention"], evidence.item_reviews),
        **{name: f"{count:,}" for name, count in evidence.counts.items()},
    }
    # A mention in only one of a user's many reviews may be a coincidence.
    if evidence.user_reviews >= min(_FEWEST_OF_USER, max(1, evidence.num_user_reviews)):
        template += templates["user" if evidence.num_user_reviews != 1 else "user_of_one"]
    return template.format_map(values)


def _form(forms: str, count: int) -> str:
    """Return the singular or the plural of `forms`, such as `review|reviews`."""
    one, _, more = forms.partition("|")
    return one if count == 1 or not more else more


def words_of(templates: PlainTemplates) -> list[str]:
    """Return the literal texts of the templates, with both forms of nouns and verbs."""
    literals = [literal for text in templates.values() for literal, _ in parse_placeholders(text)]
    return [form for literal in literals for form in literal.split("|")]


def written_as_in(
    texts: PairTexts, names: AspectNames, *, are_written: bool
) -> Callable[[str], str]:
    """Return a function that writes an aspect as the item's profile does, if it names it.

    Occurrences at the start of a sentence or in a name ("Busloop Burgers") do not count, because of
    their capitals. Nor do shorter forms: the "taco" of "taco stand" is not a form of "tacos".
    are_written: whether aspects are written in the vocabulary's grammatical number.
    """
    profile = composed(texts.item_profile)
    own, ends = title_spans(profile, texts.item_title), sentence_ends(profile)
    forms = dict[str, str]()
    for named in names.find(profile):
        in_name = named.is_within(own) or _is_in_a_name(profile, named.start, named.end)
        if not in_name and not _begins_a_sentence(profile, named.start, ends):
            form = _POSSESSIVE.sub("", profile[named.start : named.end])
            # Lowercase letters compare greater.
            forms[named.name] = max(form, forms.get(named.name, form))

    def written(aspect: str) -> str:
        form = forms.get(aspect, "")
        is_known = form.lower() == aspect if are_written else len(form) >= len(aspect)
        return form if is_known else with_capitals(aspect)

    return written


def _is_in_a_name(text: str, start: int, end: int) -> bool:
    """Return whether a capitalized word is next to another one or to an ampersand."""
    if not text[start].isupper() or text[start:end].isupper():
        return False
    head, blank, rest = text[:start].rpartition(" ")
    before = head.rpartition(" ")[2][:1] if blank and not rest else ""
    after = text[end + 1 : end + 2] if text[end : end + 1] == " " else ""
    return any(beside.isupper() or beside == "&" for beside in (before, after))


def _begins_a_sentence(text: str, start: int, ends: Sequence[int]) -> bool:
    """Return whether a sentence, a line or a list entry begins at `start`."""
    bare = len(text[:start].rstrip(_LIST_MARKS))
    return _LINE_START.search(text, 0, start) is not None or any(bare <= e <= start for e in ends)
