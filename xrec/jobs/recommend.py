"""Find each user's best new items.

Leaves out items that the user has interacted with or disliked, and items that are not eligible.
xrec backfill publishes the pairs with their explanations.

In:   <workspace>/dataset, graph and neighbors (or one of these two), eligible.items
Out:  <workspace>/recommendations: Parquet files of user_id, item_id, rank, score and evidence

Examples:
  xrec recommend configs/yelp.yaml
  xrec recommend configs/yelp.yaml 'eligible={items: in_stock.csv}' k=50
"""

from xrec.config import RecommendConfig
from xrec.jobs.output import Output
from xrec.recommend import identify
from xrec.storage import Manifest, location_of


def output(config: RecommendConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    return Output(location_of(config, "recommendations"), "recommendations", *identify(config))


def run(config: RecommendConfig) -> Manifest:
    """Rank on Ray, unless the recommendations exist."""
    from xrec.cluster import ONE_CPU, ready_cluster
    from xrec.recommend.ranking import recommend

    return recommend(config, lambda: ready_cluster(config, "recommendations", ONE_CPU))
