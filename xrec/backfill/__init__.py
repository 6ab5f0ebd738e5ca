"""Explains many pairs: pairs in, a table of explanations out.

A backfill is a bulk run (xrec.bulk) whose task explains pairs. This package has what is special
about it: what texts depend on (identity), what an actor does with pairs (task, explain), where they
come from and the run itself with its metrics (plan, driver), what they were made from (made_from),
and what a reader gets (lookup). Only the last two are imported here: a reader needs neither torch
nor Ray.
"""

from xrec.backfill.lookup import read, read_explanations, read_failed
from xrec.backfill.made_from import last_night, present, resolve

__all__ = ["last_night", "present", "read", "read_explanations", "read_failed", "resolve"]
