"""Top-k recommendation in bulk: the best unseen items of each user, as Parquet files.

A backfill can take its pairs from here. The artifact holds

run.json                 what is being made, written once            (xrec.recommend.plan)
part-00000.parquet, ...  a range of users each, by user_id and rank  (xrec.recommend.worker)
manifest.json            the list of the parts, written last         (xrec.recommend.run)
"""

from xrec.recommend.plan import (
    RecommendPlan,
    identify_recommendations,
    plan_recommendations,
)
from xrec.recommend.run import read_recommendations, recommendation_batches, run_recommend
from xrec.recommend.tables import RankingTables, read_catalogue, read_tables

__all__ = [
    "RankingTables",
    "RecommendPlan",
    "identify_recommendations",
    "plan_recommendations",
    "read_catalogue",
    "read_recommendations",
    "read_tables",
    "recommendation_batches",
    "run_recommend",
]
