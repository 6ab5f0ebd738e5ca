"""Job `recommend`: dataset and graph in, each user's best unseen items out."""

from xrec.config import RecommendConfig
from xrec.jobs.output import Output
from xrec.recommend import (
    identify_recommendations,
    plan_recommendations,
    publish_recommendations,
    read_tables,
    run_recommend,
)
from xrec.storage import Manifest, location_of


def output(config: RecommendConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    identity = identify_recommendations(config)
    location = location_of(config, "recommendations")
    return Output(location, "recommendations", identity.config, identity.inputs)


def run(config: RecommendConfig) -> Manifest:
    """Rank what is left on Ray, unless it is published."""
    from xrec.cluster import ONE_CPU, ready_cluster

    if (done := output(config).done()) is not None:
        return done
    planned = plan_recommendations(config, read_tables(config)[0])
    if (manifest := publish_recommendations(planned)) is not None:
        return manifest
    with ready_cluster(config, "recommendations", ONE_CPU):
        return run_recommend(config, planned)
