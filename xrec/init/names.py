"""Guess what columns and files contain from their names, with the words in names.yaml."""

import re
from importlib.resources import files
from typing import Literal, get_args

import yaml

Role = Literal["user", "item"]
Meaning = Literal[
    "explanation", "rating", "time", "summary", "helpful", "title", "profile", "split"
]
GIVEN = ("user_id", "item_id", "review", "item_title", *get_args(Meaning))
"""The meanings that a user can assign to a column with --columns."""

_FILE = yaml.safe_load((files("xrec.init") / "names.yaml").read_text(encoding="utf-8"))
_WORDS = {name: set(_FILE[name].split()) for name in ("user", "item", "id", "modifier")}
_MEANINGS: dict[Meaning, list[str]] = {
    meaning: words.split() for meaning, words in _FILE["meanings"].items()
}
_TEXTS = _MEANINGS["explanation"]
_AS_THEY_ARE = set(_TEXTS[: _TEXTS.index("review")])
_NO_TEXT = {*_WORDS["id"], *_FILE["no_text"].split()}
_NO_PROFILE = {*_WORDS["id"], *_FILE["no_profile"].split()}
_TABLES = {table: set(words.split()) for table, words in _FILE["tables"].items()}
_TABLES["users"] |= _WORDS["user"]
_TABLES["items"] |= _WORDS["item"]
_DEEDS = {deed: set(words.split()) for deed, words in _FILE["deeds"].items()}
_KNOWN = _WORDS["user"] | _WORDS["item"] | {*_TEXTS} | set().union(*_TABLES.values())


def words_of(name: str) -> list[str]:
    """Return the words of a name, lowercase and singular: reviewer, id for `reviewerIDs`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [part for word in words for part in _parts(word)]


def deeds_of(stem: str) -> tuple[str, str]:
    """Return what people do with items, by the name of the file of interactions."""
    words = set(words_of(stem))
    deed = next((each for each in _DEEDS if words & _DEEDS[each]), "chose, chosen")
    chose, _, chosen = deed.partition(", ")
    return chose, chosen


def _parts(word: str) -> list[str]:
    """Split `userid` and `reviewtext`, and make a known word singular."""
    for ending in ("id", "text", "body"):
        stem = word.removesuffix(ending)
        if stem != word and stem in _KNOWN:
            return [stem, ending]
    forms = (word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word))
    return [next((form for form in forms if form in _KNOWN), word)]


def id_role(name: str) -> Role | Literal["any"] | None:
    """Return whose id a column holds, by its name: "any" for a plain id, None for no id."""
    words = words_of(name)
    rest = [word for word in words if word not in _WORDS["id"] | _WORDS["modifier"]]
    if not rest:
        return "any" if words else None
    roles: tuple[Role, Role] = ("user", "item")
    return next((r for r in roles if len(rest) == 1 and rest[0] in _WORDS[r]), None)


def table_of(stem: str) -> str | None:
    """Return the table that a file's name suggests; tables of pairs take precedence."""
    words = set(words_of(stem))
    return next((table for table, known in _TABLES.items() if words & known), None)


def rank(name: str, meaning: Meaning) -> int | None:
    """Return the rank of a name for a meaning, 0 for the likeliest; None if it does not fit."""
    words = words_of(name)
    if meaning in ("explanation", "title", "profile") and set(words) & _NO_TEXT:
        return None
    ranked = _MEANINGS[meaning]
    return min((ranked.index(word) for word in words if word in ranked), default=None)


def names_items(name: str) -> bool:
    """Return whether a column's name is that of item titles in a table of pairs: product_title."""
    words = set(words_of(name))
    return bool(words & _WORDS["item"] and words & {*_MEANINGS["title"]})


def is_review(name: str) -> bool:
    """Return whether a text column's name suggests reviews by people rather than reasons."""
    return not set(words_of(name)) & _AS_THEY_ARE


def may_describe(name: str) -> bool:
    """Return whether a column may be part of a profile: neither personal nor technical."""
    return not set(words_of(name)) & _NO_PROFILE
