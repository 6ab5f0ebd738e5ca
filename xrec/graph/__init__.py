"""The graph of interactions: LightGCN, its losses, ranking, fold-in of new users, and the artifact.

`xrec.train` trains it.
"""
