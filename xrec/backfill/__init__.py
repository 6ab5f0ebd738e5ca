"""Explains many pairs: pairs in, a table of explanations out.

A backfill is a bulk run (xrec.bulk) whose task explains pairs. This package has what is special
about it: what texts depend on (identity), what an actor does with pairs (task, explain), where they
come from and the run itself with its metrics (plan, driver), and what a reader gets (lookup). Only
the last is imported here: a reader needs neither torch nor Ray.
"""

from xrec.backfill.lookup import read, read_explanations, read_failed

__all__ = ["read", "read_explanations", "read_failed"]
