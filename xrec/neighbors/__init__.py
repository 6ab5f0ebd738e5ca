"""What people did, counted: neighbors of items, the scores and the reasons that come from them.

build      the heaviest history items of each item by co-occurrence, and exact numbers of people
steps      lower bounds in steps, the only numbers about people that leave a build
artifact   the artifact, mapped
scores     the part of a recommendation's score, and its weight b
reasons    which history item contributed most to a pair's score, and how to say so
make       the job: dataset and graph in, artifact out
"""

from xrec.neighbors.artifact import NeighborTable, neighbors_identity, read_neighbors
from xrec.neighbors.make import make_neighbors
from xrec.neighbors.reasons import Reason, Reasons

__all__ = [
    "NeighborTable",
    "Reason",
    "Reasons",
    "make_neighbors",
    "neighbors_identity",
    "read_neighbors",
]
