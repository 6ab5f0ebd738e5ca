"""Best of n: several texts from one prefill, of which a small linear model takes the best.

features   what is known of a text: its likelihoods, what it names, how it reads
ranker     the linear model and its artifact; `xrec.evaluate.ranker` trains it
draw       draws the texts and weighs them
"""

from xrec.generate.candidates.draw import Candidate, draw_candidates
from xrec.generate.candidates.features import FEATURES, features_of
from xrec.generate.candidates.ranker import Ranker, read_ranker, write_ranker

__all__ = [
    "FEATURES",
    "Candidate",
    "Ranker",
    "draw_candidates",
    "features_of",
    "read_ranker",
    "write_ranker",
]
