"""What backs a pair's explanation: aspects with numbers of reviews, and what people did."""

from dataclasses import dataclass, field
from typing import Literal, get_args

EvidenceKind = Literal["others", "history", "popular", "abstained"]
"""The kinds of reasons by what people did, in the order in which they are tried."""
EVIDENCE_KINDS: tuple[EvidenceKind, ...] = get_args(EvidenceKind)


@dataclass(frozen=True)
class AspectEvidence:
    """An aspect of an item, and how many training reviews mention it.

    item_reviews of the item's num_item_reviews reviews mention the aspect, and so do user_reviews
    of the num_user_reviews reviews that the user wrote about any item. If the aspects come from
    profiles (`Dataset.aspects_from`), the item's profile counts as its only review, and the
    profiles of the items that the user interacted with count as the user's reviews.
    opinion: words that praise the aspect in the item's reviews, or "" (xrec.data.menus).
    """

    aspect: str
    item_reviews: int
    num_item_reviews: int
    user_reviews: int
    num_user_reviews: int
    opinion: str = field(default="", kw_only=True)

    @property
    def counts(self) -> dict[str, int]:
        """The four numbers of reviews, by field name."""
        return {name: value for name, value in vars(self).items() if name.endswith("_reviews")}


@dataclass(frozen=True)
class NamedEvidence(AspectEvidence):
    """The evidence for an aspect, and whether a given text names it."""

    is_named: bool


@dataclass(frozen=True)
class PeopleEvidence:
    """Why a pair was recommended, by what people did (xrec.neighbors.reasons).

    item_id, name: the supporting item, and its title or what to call it; "" if there is none.
    at_least: a lower bound of how many other people, 0 for none. sentence: all of this in words.
    """

    kind: EvidenceKind
    item_id: str
    name: str
    at_least: int
    sentence: str
