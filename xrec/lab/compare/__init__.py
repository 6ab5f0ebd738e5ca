"""Contestants write texts for the same held-out pairs; what each is worth and costs, in one table.

    entries     contestant x seed, each with a folder below the comparison
    make        trains what is to be trained and writes the texts (adapters, text_only, lora,
                copies, elsewhere), as bulk runs where a language model writes them
    score       a row of scores a pair, by xrec.evaluate
    result      means, spread over seeds, intervals, differences: table, report, LaTeX, Markdown
    blind       pages for people as judges, and what their answers say

Whatever is there with the same settings and inputs is taken, at every step: a comparison that was
killed goes on, and one that gets another contestant or seed keeps the others.
"""

from xrec.lab.compare.artifact import has_all_metrics
from xrec.lab.compare.computed import computed_on_ray
from xrec.lab.compare.identity import comparison_identity
from xrec.lab.compare.packages import check_packages
from xrec.lab.compare.run import compare

__all__ = [
    "check_packages",
    "compare",
    "comparison_identity",
    "computed_on_ray",
    "has_all_metrics",
]
