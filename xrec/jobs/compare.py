"""Job `compare`: entries write texts for the same pairs; one table."""

import os

from xrec.checks import check_word_list
from xrec.config import ADAPTERS, CompareConfig
from xrec.data.dataset import check_has_explanations
from xrec.jobs.output import Output
from xrec.lab.compare.entries import comparison_identity
from xrec.lab.measures.judge import judge_keys
from xrec.llm.source import known_fingerprint
from xrec.storage import Manifest, check_artifacts, location_of


def output(config: CompareConfig, *, exact: bool = True) -> Output:
    base_model: str | None = None
    unchecked: tuple[str, ...] = ()
    if config.llm is not None and config.has_language_model:
        base_model = known_fingerprint(config.llm, config.storage, download=exact)
        unchecked = () if base_model else ("base_model",)
    settings, inputs = comparison_identity(config, base_model)
    location = location_of(config, "comparison")
    return Output(location, "comparison", settings, inputs, unchecked=unchecked)


def run(config: CompareConfig) -> Manifest:
    """Make, score and compare what is not done yet on Ray; returns the manifest."""
    from xrec.cluster.connect import ensure_ray
    from xrec.cluster.preflight import check_cluster, demand_of_actors, demand_of_workers
    from xrec.lab.compare.comparison import check_packages, compare

    check_artifacts(config, "dataset", "graph", "comparison")
    check_word_list(config.decoding.text.checks, config.storage)
    check_has_explanations(location_of(config, "dataset"))
    check_packages(config)
    made = output(config)
    found = made.found()
    if found.state == "up to date":
        assert found.manifest is not None
        return found.manifest
    keys = judge_keys(config.metrics.judges, os.environ)
    with ensure_ray(config.ray):
        uri, parallel = config.artifact("comparison"), config.engine.num_gpus
        if set(config.entries) & set(ADAPTERS):
            check_cluster(demand_of_workers(config.workers), uri, config.storage)
        check_cluster(demand_of_actors(config.actors, parallel), uri, config.storage)
        return compare(config, made.config, made.inputs, keys=keys)
