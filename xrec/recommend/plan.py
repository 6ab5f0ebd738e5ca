"""The plan of a run: for which users items are ranked, and by which vectors.

It is known before the work, and an output belongs to one run.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from xrec.config.backfill import RecommendConfig
from xrec.data.cold_start import read_cold_start
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.storage import (
    Location,
    Manifest,
    finished,
    is_begun,
    location_of,
    manifest_of,
    run_fingerprint,
)

RUN = "run.json"


@dataclass(frozen=True)
class RecommendPlan:
    """The settings and inputs that the recommendations depend on.

    `done` is the manifest if this very run was finished before.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    done: Manifest | None = None

    @property
    def run(self) -> str:
        """The run's fingerprint."""
        return run_fingerprint("recommendations", self.config, self.inputs)


def plan_recommendations(config: RecommendConfig) -> RecommendPlan:
    """`identify_recommendations`, and the manifest if this run is finished; writes nothing.

    Raises also ArtifactMismatchError if the output holds another run.
    """
    plan = identify_recommendations(config)
    output = location_of(config, "recommendations")
    return replace(plan, done=finished(output, "recommendations", plan.config, plan.inputs))


def identify_recommendations(config: RecommendConfig) -> RecommendPlan:
    """The run that `config` asks for; reads manifests and the tables of a cold start.

    Raises ArtifactNotFoundError without dataset or graph, ArtifactMismatchError if the graph is of
    another dataset, ConfigError if k is more than there are items or user_ids is empty.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    num_items = graph.row_counts["items"]
    if config.k > num_items:
        raise ConfigError(f"k = {config.k}, but the dataset has {num_items} items; lower k")
    if config.user_ids is not None and not config.user_ids:
        raise ConfigError("user_ids is an empty list; name users, or leave it out for all")
    # A part's range of users follows from users_per_task, so another number makes another run.
    user_ids = None if config.user_ids is None else sorted(set(config.user_ids))
    run_config = {"k": config.k, "user_ids": user_ids, "users_per_task": config.users_per_task}
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint}
    if config.cold_start is not None:
        inputs["cold_start"] = read_cold_start(config.cold_start, config.storage).fingerprint
    return RecommendPlan(run_config, inputs)


def begin(output: Location, plan: RecommendPlan) -> None:
    """Write the record of the run, or find that it was begun before; then its parts are kept.

    Raises ArtifactMismatchError if the output holds another run that is not finished, or parts
    without the record of a run.
    """
    record = {"run": plan.run, "config": plan.config, "inputs": plan.inputs}
    if is_begun(output, RUN, "recommendations", plan.config, plan.inputs):
        return
    strays = [name for name in output.files() if name.startswith("part-")]
    if strays:
        raise ArtifactMismatchError(
            f"{output}: holds {len(strays)} parts (the first is {strays[0]}) and no {RUN}; "
            "give another output URI, or delete this one"
        )
    if not (output / RUN).create_bytes(json.dumps(record, indent=2).encode()):
        # Another driver was first: either it makes the same parts, or this raises.
        is_begun(output, RUN, "recommendations", plan.config, plan.inputs)
