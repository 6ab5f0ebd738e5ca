"""Contestants write texts for the same held-out pairs; what each is worth and costs, in one table.

    entries       contestant x seed, each with a folder below the comparison
    make          trains what is to be trained and writes the texts (adapters, baselines, text_only,
                  copies, elsewhere), as bulk runs where a model writes them
    scores        a row of scores a pair; likelihoods: of the references
    result        means, spread over seeds, intervals, differences; table: for a reader
    comparison    all of it, from beginning to end
    people        the blind sheet, and its answers

Whatever is there with the same settings and inputs is taken, at every step: a comparison that was
killed goes on, and one that gets another contestant or seed keeps the others.
"""

from xrec.lab.compare.comparison import check_packages, compare
from xrec.lab.compare.identity import comparison_identity

__all__ = ["check_packages", "compare", "comparison_identity"]
