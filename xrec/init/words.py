"""The words that name users, items, texts and tables in the names of columns and files."""

import re
from collections.abc import Mapping
from typing import Literal

from xrec.data.english import word_set

Role = Literal["user", "item"]


_USER = word_set(
    "user usr uid customer cust client reviewer member buyer account person visitor guest "
    "author patron subscriber consumer shopper reader viewer player student listener "
    "traveler traveller"
)
_ITEM = word_set(
    "item iid product prod asin sku business biz gmap place venue movie film book isbn article "
    "restaurant hotel listing track song album game recipe course goods poi offer video "
    "episode podcast event destination app"
)
_ID = word_set("id ids uuid guid key no nr num number code ref hash idx index")
_MODIFIERS = word_set("parent external internal source unique anon anonymous google yelp")

Meaning = Literal[
    "explanation", "rating", "time", "summary", "helpful", "title", "profile", "split"
]
# The likeliest word comes first.
_LIKELIEST: Mapping[Meaning, str] = {
    "explanation": "explanation reason why rationale justification motivation review text comment "
    "feedback opinion body content message note remark",
    "rating": "rating rate stars star overall score grade",
    "time": "unix timestamp time date datetime created reviewed published",
    "summary": "summary title headline heading subject",
    "helpful": "helpful useful vote votes likes",
    "title": "title name label headline",
    "profile": "profile description desc about bio biography summary synopsis overview details "
    "text info abstract",
    "split": "split fold subset partition set",
}
_RANKED = {meaning: words.split() for meaning, words in _LIKELIEST.items()}
GIVEN = ("user_id", "item_id", "review", "item_title", *_RANKED)
"""What a user may say that a column is."""
_TEXTS = ("explanation", "title", "profile")
_EXPLANATION = _RANKED["explanation"]
_MADE = _EXPLANATION[: _EXPLANATION.index("review")]

# A column with one of these words is left out of profiles: it is personal or technical.
_NO_PROFILE = word_set(
    "name email mail phone tel address street ip password birth birthday lat lon lng latitude "
    "longitude url uri link image img photo picture thumbnail date time datetime timestamp "
    "created updated modified zip postcode zipcode hours attributes checksum split fold"
)
_NO_TEXT = _ID | word_set("date time timestamp count length score rating url lang language")

_TABLE_WORDS = {
    "interactions": word_set(
        "interaction rating order purchase click visit view event transaction sale log history "
        "play checkin activity watch rental booking basket"
    ),
    "explanations": word_set("explanation reason review comment feedback tip opinion"),
    "users": _USER | {"people"},
    "items": _ITEM | word_set("catalog catalogue inventory meta metadata"),
}
_KNOWN = _USER | _ITEM | frozenset(_EXPLANATION) | frozenset().union(*_TABLE_WORDS.values())


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case and singular: `reviewerIDs` has reviewer, id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    return [part for word in words for part in _parts(word)]


def id_role(column: str) -> Role | Literal["any"] | None:
    """Whose id the column is by its name: "any" for a plain id, None if it is named for none."""
    words = words_of(column)
    rest = [word for word in words if word not in _ID and word not in _MODIFIERS]
    if words and not rest:
        return "any"
    if len(rest) != 1:
        return None
    if rest[0] in _USER:
        return "user"
    return "item" if rest[0] in _ITEM else None


def table_of_file(stem: str) -> str | None:
    """The table that a file's name speaks of, pairs before users and items; None for no table."""
    words = set(words_of(stem))
    return next((table for table, known in _TABLE_WORDS.items() if words & known), None)


def rank(column: str, meaning: Meaning) -> int | None:
    """0 for the likeliest name of a column of that meaning, more for others, None for no name."""
    words = words_of(column)
    if meaning in _TEXTS and set(words) & _NO_TEXT:
        return None
    ranked = _RANKED[meaning]
    return min((ranked.index(word) for word in words if word in ranked), default=None)


def names_items(column: str) -> bool:
    """True for a name as of titles that stand beside ids of items: product_title, item name."""
    words = set(words_of(column))
    return bool(words & _ITEM and words & set(_RANKED["title"]))


def is_review(column: str) -> bool:
    """True for the name of a text that people wrote: none is called an explanation or a reason."""
    return not set(words_of(column)) & set(_MADE)


def may_describe(column: str) -> bool:
    """True unless the column's name says that it is personal or technical."""
    words = set(words_of(column))
    return not words & (_NO_PROFILE | _ID)


def _parts(word: str) -> list[str]:
    """`userid` as user, id; `reviewtext` as review, text; `customers` as customer."""
    for ending in ("id", "text", "body"):
        stem = word.removesuffix(ending)
        if stem != word and (stem in _USER or stem in _ITEM or stem in _EXPLANATION):
            return [stem, ending]
    for form in (word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word)):
        if form in _KNOWN:
            return [form]
    return [word]
