"""The graph of which user interacted with which item, and the vectors that are learned from it.

This package has the parts of LightGCN, its losses and negatives, ranking, fold-in of new users,
and the artifact of the vectors. `xrec.train` puts the parts together.
"""
