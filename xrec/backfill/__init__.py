"""Explain many pairs: pairs in, a table of explanations out.

A backfill is a bulk run (xrec.bulk) whose task explains pairs. This package adds what the texts
depend on (identity), what an actor does with pairs (task, explain), where the pairs come from
(plan), the run with its metrics (driver), which artifacts the explanations were made from
(made_from), and how they are read (lookup). Only the last two are imported here, because readers
need neither torch nor Ray.
"""

from xrec.backfill.lookup import read, read_explanations, read_failed
from xrec.backfill.made_from import last_night, present, refuse_without_inputs, resolve

__all__ = [
    "last_night",
    "present",
    "read",
    "read_explanations",
    "read_failed",
    "refuse_without_inputs",
    "resolve",
]
