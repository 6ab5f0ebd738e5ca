"""Top-k recommendation in bulk: the best unseen items of each user, as a table.

It is a bulk run (xrec.bulk) whose rows are users; the table has a row for each of a user's items.
A backfill can take its pairs from here.

    identity   what the recommendations depend on, known before the work
    tables     vectors, edges and ids, which actors share
    task       what an actor does with some users, and the columns of the table
    run        plans and drives the run, and finishes the artifact
    read       the rows of a finished artifact
"""

from xrec.recommend.identity import identify_recommendations
from xrec.recommend.read import read_recommendations, recommendation_batches
from xrec.recommend.run import plan_recommendations, publish_recommendations, run_recommend
from xrec.recommend.tables import RankingTables, read_catalogue, read_tables

__all__ = [
    "RankingTables",
    "identify_recommendations",
    "plan_recommendations",
    "publish_recommendations",
    "read_catalogue",
    "read_recommendations",
    "read_tables",
    "recommendation_batches",
    "run_recommend",
]
