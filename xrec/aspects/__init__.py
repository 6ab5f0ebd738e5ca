"""Which aspects of an item to name to a user, and the reviews that back them.

    mentions     what training reviews mention, of which all counts are made
    neighbours   which items are alike, by the graph of users, items and aspects
    scorer       score(u, i, a)
    fit          trains the scorer's numbers on held-out reviews
    praise       what an item's reviews praise, of which is chosen
    choice       the best aspects of many pairs, with evidence
    artifact     the trained score
    train        the recipe

The formula is in `xrec.aspects.scorer`.
"""

from xrec.aspects.artifact import (
    aspects_of,
    read_aspects_manifest,
    read_chooser,
    read_scorer,
)
from xrec.aspects.choice import AspectChooser, Choices
from xrec.aspects.fit import Fitted, evaluate, fit, ndcg
from xrec.aspects.mentions import Mentions, ProfileMentions, dataset_mentions, ones_at
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.aspects.train import aspects_identity, train_aspects

__all__ = [
    "AspectChooser",
    "AspectScorer",
    "Choices",
    "Fitted",
    "Mentions",
    "ProfileMentions",
    "Weights",
    "aspects_identity",
    "aspects_of",
    "dataset_mentions",
    "evaluate",
    "fit",
    "item_vectors",
    "ndcg",
    "nearest_items",
    "ones_at",
    "read_aspects_manifest",
    "read_chooser",
    "read_scorer",
    "train_aspects",
]
