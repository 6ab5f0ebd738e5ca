"""The plain sentence that takes the place of a refused text: what the reviews say, in figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xrec.checks.tokens import tokens_of
from xrec.config import PlainTemplates, parse_placeholders
from xrec.data.evidence import AspectEvidence

if TYPE_CHECKING:
    from xrec.llm.prompt import PairTexts

_MOST_ASPECTS = 2
_FEWEST_OF_USER = 2


def plain_sentence(
    texts: PairTexts,
    templates: PlainTemplates,
    min_evidence: int,
    written: Callable[[str], str] = str,
) -> str | None:
    """A sentence of the best aspects with evidence: "14 of 31 reviews of the Fox mention the tea."

    Two aspects at most that share no word are named, in how many reviews of the item they are and,
    where the user mentions them too, in how many of the user's: in two of them at least, or in the
    only one. None if no aspect is in `min_evidence` or more of the item's reviews. `written` gives
    how an aspect is to be written.
    """
    told = list[AspectEvidence]()
    for each in texts.aspects:
        is_new = not any(_share_a_word(each, other) for other in told)
        if each.item_reviews >= min_evidence and is_new and len(told) < _MOST_ASPECTS:
            told.append(each)
    if not told:
        return None
    parts = [
        _part(template, each, written(each.aspect), texts.item_title, templates)
        for template, each in zip((templates["first"], templates["second"]), told, strict=False)
    ]
    sentence = "".join(parts) + templates["end"]
    return sentence[0].upper() + sentence[1:]


def _share_a_word(one: AspectEvidence, other: AspectEvidence) -> bool:
    """As "beers" and "craft beers" do, of which a sentence says one."""
    return not set(tokens_of(one.aspect).keys).isdisjoint(tokens_of(other.aspect).keys)


def _part(
    template: str, evidence: AspectEvidence, aspect: str, title: str, templates: PlainTemplates
) -> str:
    of_user = _template_of_user(evidence, templates)
    values = {
        "aspect": aspect,
        "title": title,
        "of_title": templates["of_title"].format(title=title) if title else "",
        "opinion": templates["opinion"].format(opinion=evidence.opinion)
        if evidence.opinion
        else "",
        "reviews": _form(templates["reviews"], evidence.num_item_reviews),
        "mention": _form(templates["mention"], evidence.item_reviews),
    }
    values |= {name: f"{count:,}" for name, count in evidence.counts.items()}
    return (template + of_user).format_map(values)


def _template_of_user(evidence: AspectEvidence, templates: PlainTemplates) -> str:
    """Empty if the user mentions the aspect too rarely: one of many reviews may be an accident."""
    if evidence.user_reviews < min(_FEWEST_OF_USER, max(1, evidence.num_user_reviews)):
        return ""
    return templates["user" if evidence.num_user_reviews != 1 else "user_of_one"]


def _form(forms: str, count: int) -> str:
    """Return the singular or the plural of `forms`, such as `review|reviews`."""
    one, _, more = forms.partition("|")
    return one if count == 1 or not more else more


def words_of(templates: PlainTemplates) -> list[str]:
    """Return the literal texts of the templates, with both forms of nouns and verbs."""
    literals = [literal for text in templates.values() for literal, _ in parse_placeholders(text)]
    return [form for literal in literals for form in literal.split("|")]
