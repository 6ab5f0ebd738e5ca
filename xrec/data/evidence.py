"""Aspects that were chosen for a pair, with the reviews that back them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AspectEvidence:
    """An aspect of an item, and in how many of the training reviews it is.

    item_reviews of the item's num_item_reviews reviews mention it, and user_reviews of the
    num_user_reviews that the user wrote, of whatever items. If the aspects are those of profiles
    (`Dataset.aspects_from`), the item's profile is its only review, and the user's are the profiles
    of the items that they interacted with.
    opinion: words in which the item's reviews praise it, "" if there are none (xrec.data.menus).
    """

    aspect: str
    item_reviews: int
    num_item_reviews: int
    user_reviews: int
    num_user_reviews: int
    opinion: str = field(default="", kw_only=True)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of reviews, by their names."""
        return {name: value for name, value in vars(self).items() if name.endswith("_reviews")}


@dataclass(frozen=True)
class NamedEvidence(AspectEvidence):
    """The same beside a text, and whether the text names the aspect."""

    is_named: bool
