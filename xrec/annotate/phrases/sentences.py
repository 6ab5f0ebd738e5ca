"""Profiles and explanations from aspects, in plain sentences that a hash varies."""

import hashlib
import re
from collections.abc import Sequence

_ITEM = (
    "People praise its {praised}.",
    "Reviewers like its {praised}.",
    "It is praised for its {praised}.",
)
_COMPLAINTS = ("Some find fault with the {blamed}.", "A few complain about the {blamed}.")
_USER = ("Often praises {praised}.", "Cares about {praised}.", "Looks for {praised}.")
# A model learns them with a place-holder for the name, so none has to know if it is a plural.
_PAIR = (
    "You would enjoy {name} for the {praised}.",
    "You are likely to appreciate the {praised} of {name}.",
    "{Name} could win you over with the {praised}.",
    "With the {praised}, {name} would be a good match for you.",
    "The {praised} of {name} should please you.",
    "You should be happy with the {praised} of {name}.",
    "You will like {name} for the {praised}.",
)
_MOST_DETAILS = 300
_BREAK = re.compile(r"(?<=[.!?;])\s")


def item_profile(id_: str, details: str, praised: Sequence[str], blamed: Sequence[str]) -> str:
    """What an item is like. details: what the source says of it, of which the beginning is kept."""
    parts = [_beginning(details)] if details else []
    if praised:
        parts.append(_chosen(_ITEM, id_).format(praised=listed(praised)))
    if blamed:
        parts.append(_chosen(_COMPLAINTS, id_).format(blamed=listed(blamed)))
    return " ".join(parts)


def user_profile(id_: str, praised: Sequence[str], titles: Sequence[str]) -> str:
    """What a user likes. titles: of items that they reviewed."""
    parts = [_chosen(_USER, id_).format(praised=listed(praised))] if praised else []
    if titles:
        parts.append(f"Has enjoyed {listed(titles)}.")
    return " ".join(parts)


def explanation(user_id: str, item_id: str, title: str, praised: Sequence[str]) -> str:
    """Why the user would enjoy the item: a sentence that names what they praise in it.

    title: empty if it has none.
    """
    name = title or "this item"
    pattern = _chosen(_PAIR, f"{user_id}\n{item_id}")
    return pattern.format(name=name, Name=name[0].upper() + name[1:], praised=listed(praised))


def listed(words: Sequence[str]) -> str:
    """The words in a row: "a", "a and b", "a, b and c"."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def _chosen(patterns: Sequence[str], key: str) -> str:
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return patterns[int.from_bytes(digest, "big") % len(patterns)]


def _beginning(details: str) -> str:
    """The first sentences, or a part of the first one, to the end of a word if it has blanks."""
    if len(details) <= _MOST_DETAILS:
        return details if details.endswith((".", "!", "?")) else f"{details}."
    kept = ""
    for sentence in _BREAK.split(details):
        if len(kept) + len(sentence) > _MOST_DETAILS:
            break
        kept = f"{kept} {sentence}".strip()
    start = details[:_MOST_DETAILS]
    return kept or f"{start.rpartition(' ')[0] or start} \u2026"  # some languages have no blanks
