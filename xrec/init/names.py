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
_WORDS = {name: set(text.split()) for name, text in _FILE.items() if isinstance(text, str)}
_MEANINGS = {meaning: text.split() for meaning, text in _FILE["meanings"].items()}
_TABLES = {table: set(text.split()) for table, text in _FILE["tables"].items()}
_TABLES["users"] |= _WORDS["user"]
_TABLES["items"] |= _WORDS["item"]
_DEEDS = {deed: set(words.split()) for deed, words in _FILE["deeds"].items()}
_KNOWN = {*_WORDS["user"], *_WORDS["item"], *_MEANINGS["explanation"]}.union(*_TABLES.values())


def words_of(name: str) -> list[str]:
    """Return the words of a name, lowercase and singular: reviewer, id for `reviewerIDs`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [part for word in words for part in _parts(word)]


def deed_of(stem: str) -> str:
    """Return what people did with items, by the name of the file of interactions."""
    words = set(words_of(stem))
    return next((deed for deed in _DEEDS if words & _DEEDS[deed]), "chose")


def _parts(word: str) -> list[str]:
    """Split `userid` and `reviewtext`, and make a known word singular."""
    for ending in ("id", "text", "body"):
        stem = word.removesuffix(ending)
        if stem != word and stem in _KNOWN:
            return [stem, ending]
    forms = (word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word))
    return [next((form for form in forms if form in _KNOWN), word)]


def id_role(name: str) -> Role | Literal["any"] | None:
    """Return whose ID a column holds, by its name: "any" for a plain ID, None for no ID."""
    words = words_of(name)
    rest = [word for word in words if word not in _WORDS["id"] | _WORDS["modifier"]]
    if not rest:
        return "any" if words else None
    roles: tuple[Role, Role] = ("user", "item")
    return next((r for r in roles if len(rest) == 1 and rest[0] in _WORDS[r]), None)


def table_of(file: str) -> str | None:
    """Return the table that a file's name suggests; tables of pairs take precedence."""
    words = set(words_of(file.partition(".")[0]))
    return next((table for table, known in _TABLES.items() if words & known), None)


def rank(name: str, meaning: Meaning) -> int | None:
    """Return the rank of a name for a meaning, 0 for the likeliest; None if it does not fit."""
    words = words_of(name)
    is_text = meaning in ("explanation", "title", "profile")
    if is_text and set(words) & (_WORDS["id"] | _WORDS["no_text"]):
        return None
    ranked = _MEANINGS[meaning]
    return min((ranked.index(word) for word in words if word in ranked), default=None)


def names_items(name: str) -> bool:
    """Return whether a column's name is that of item titles in a table of pairs: product_title."""
    words = set(words_of(name))
    return bool(words & _WORDS["item"] and words & {*_MEANINGS["title"]})


def is_review(name: str) -> bool:
    """Return whether a text column's name suggests reviews by people rather than reasons."""
    ranked = _MEANINGS["explanation"]
    return not set(words_of(name)) & {*ranked[: ranked.index("review")]}


def may_describe(name: str) -> bool:
    """Return whether a column may be part of a profile: neither personal nor technical."""
    return not set(words_of(name)) & (_WORDS["id"] | _WORDS["no_profile"])
