"""Which aspects of an item to name to a user, and the reviews that back them.

    mentions     what training reviews mention and praise, of which all counts are made
    neighbours   which items are alike, by the graph of users, items and aspects
    scorer       score(u, i, a)
    fit          trains the scorer's numbers on held-out reviews
    choice       the best aspects of many pairs, with evidence
    artifact     the trained score
    train        the recipe

The formula is in `xrec.aspects.scorer`.
"""

from xrec.aspects.artifact import aspects_of, read_aspects_manifest, read_chooser
from xrec.aspects.choice import AspectChooser
from xrec.aspects.fit import fit, ndcg
from xrec.aspects.mentions import Mentions, dataset_mentions, dataset_praise
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer, Weights

__all__ = [
    "AspectChooser",
    "AspectScorer",
    "Mentions",
    "Weights",
    "aspects_of",
    "dataset_mentions",
    "dataset_praise",
    "fit",
    "item_vectors",
    "ndcg",
    "nearest_items",
    "read_aspects_manifest",
    "read_chooser",
]
