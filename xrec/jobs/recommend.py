"""Job `recommend`: dataset and graph in, each user's best new items out."""

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
