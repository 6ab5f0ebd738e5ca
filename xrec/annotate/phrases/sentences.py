"""Sentences about aspects, for profiles and explanations; a hash chooses the wording."""

import hashlib
import re
from collections.abc import Sequence

_ITEM = (
    "People praise its {praised}",
    "Reviewers like its {praised}",
    "It is praised for its {praised}",
)
_COMPLAINTS = ("Some find fault with the {blamed}", "A few complain about the {blamed}")
_USER = (
    "Often praises the {praised}",
    "Tends to praise the {praised}",
    "Often mentions the {praised}",
)
# Models learn these with a placeholder for the name, so they must fit singular and plural names.
_PAIR = (
    "You would enjoy {name} for the {praised}",
    "You are likely to appreciate the {praised} of {name}",
    "{Name} could win you over with the {praised}",
    "You would like {name}, especially the {praised}",
    "You would probably like the {praised} of {name}",
    "You should be happy with the {praised} of {name}",
    "You will like {name} for the {praised}",
)
_MAX_DETAILS = 300
_BREAK = re.compile(r"(?<=[.!?;])\s")


def item_profile(id_: str, details: str, praised: Sequence[str], blamed: Sequence[str]) -> str:
    """Describe an item by the start of its details, and by what reviews praise and criticize."""
    parts = [_beginning(details)] if details else []
    if praised:
        parts.append(_chosen(_ITEM, id_).format(praised=listed(praised)))
    if blamed:
        parts.append(_chosen(_COMPLAINTS, id_).format(blamed=listed(blamed)))
    return " ".join(map(_ended, parts))


def user_profile(id_: str, praised: Sequence[str], titles: Sequence[str]) -> str:
    """Describe a user by what they praise, and by the titles of items that they reviewed."""
    parts = [_chosen(_USER, id_).format(praised=listed(praised))] if praised else []
    if titles:
        parts.append(f"Has enjoyed {listed(titles)}")
    return " ".join(map(_ended, parts))


def explanation(user_id: str, item_id: str, title: str, praised: Sequence[str]) -> str:
    """Return why the user would enjoy the item; an item without a title is "this item"."""
    name = title or "this item"
    pattern = _chosen(_PAIR, f"{user_id}\n{item_id}")
    capitalized = name[0].upper() + name[1:]
    return _ended(pattern.format(name=name, Name=capitalized, praised=listed(praised)))


def listed(words: Sequence[str]) -> str:
    """Join words: "a", "a and b", "a, b and c"."""
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def _chosen(patterns: Sequence[str], key: str) -> str:
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return patterns[int.from_bytes(digest, "big") % len(patterns)]


def _ended(sentence: str) -> str:
    """Add a period, unless the sentence already ends, as a name such as Carl's Jr. may end it."""
    return sentence if sentence.endswith((".", "!", "?", "\u2026")) else f"{sentence}."


def _beginning(details: str) -> str:
    """Return the first sentences, or the first words if the first sentence is too long."""
    if len(details) <= _MAX_DETAILS:
        return details
    kept = ""
    for sentence in _BREAK.split(details):
        if len(kept) + len(sentence) > _MAX_DETAILS:
            break
        kept = f"{kept} {sentence}".strip()
    start = details[:_MAX_DETAILS]
    start = start.rpartition(" ")[0] or start  # some languages have no spaces
    return kept.rstrip(";") or f"{start} \u2026"
