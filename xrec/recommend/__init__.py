"""Top-k recommendation in bulk: the best unseen items of each user, as a table.

It is a bulk run (xrec.bulk) whose rows are users; the table has a row for each of a user's items.
A backfill can take its pairs from here.

    task     what a process does with some users, of which arrays, and the table's columns
    driver   what a run depends on, its plan, its work, and its publishing
    read     the rows of a published table
"""

from xrec.recommend.driver import (
    identify_recommendations,
    plan_recommendations,
    publish_recommendations,
    run_recommend,
)
from xrec.recommend.read import read_recommendations, recommendation_batches
from xrec.recommend.task import RankingTables, read_tables

__all__ = [
    "RankingTables",
    "identify_recommendations",
    "plan_recommendations",
    "publish_recommendations",
    "read_recommendations",
    "read_tables",
    "recommendation_batches",
    "run_recommend",
]
