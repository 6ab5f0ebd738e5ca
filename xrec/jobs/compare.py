"""Compare ways to write explanations.

Runs each entry (ours, variants, baselines, texts from elsewhere), once per seed if chance affects
it, and scores all of them on the same held-out pairs. Run the same command again to continue, or to
add entries.

In:   <workspace>/dataset and graph, llm.model, tables of texts
Out:  <workspace>/comparison: table.md, .html, .tex, .csv, .parquet; a folder per entry and seed

Examples:
  xrec lab compare configs/instruments-compare.yaml
  xrec lab compare configs/yelp.yaml 'entries=[ours,nearest,profile]' 'seeds=[0,1,2]'
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xrec.config import ADAPTERS, CompareConfig
from xrec.data import check_has_explanations
from xrec.errors import ArtifactNotFoundError
from xrec.jobs.output import Output
from xrec.lab.compare.entries import comparison_identity
from xrec.lab.measures.judge import judge_keys
from xrec.llm.source import known_fingerprint
from xrec.storage import Manifest, location_of

if TYPE_CHECKING:
    from xrec.lab.compare.sheet import Ratings


def output(config: CompareConfig, *, exact: bool = True) -> Output:
    """Return the job's output; without `exact`, without downloading the language model."""
    base_model: str | None = None
    unchecked: tuple[str, ...] = ()
    if config.has_language_model:
        base_model = known_fingerprint(config.llm, config.storage, download=exact)
        unchecked = () if base_model else ("base_model",)
    identity = comparison_identity(config, base_model)
    return Output(location_of(config, "comparison"), "comparison", *identity, unchecked=unchecked)


def run(config: CompareConfig) -> Manifest:
    """Write, score and compare the missing texts on Ray."""
    from xrec.cluster import demand_of_actors, demand_of_workers, ready_cluster
    from xrec.lab.compare.comparison import check_packages, compare

    check_has_explanations(location_of(config, "dataset"))
    check_packages(config)
    made = output(config)
    found = made.found()
    if found.state == "up to date":
        assert found.manifest is not None
        return found.manifest
    keys = judge_keys(config, os.environ)
    trains = set(config.entries) & set(ADAPTERS)
    demands = [demand_of_workers(config.workers)] if trains else []
    demands.append(demand_of_actors(config.actors, config.engine.num_gpus))
    with ready_cluster(config, "comparison", *demands):
        return compare(config, made.config, made.inputs, keys=keys)


def write_sheet(config: CompareConfig, uri: str, *, num_pairs: int, seed: int) -> int:
    """Write a blind sheet of a finished comparison, and return the number of its texts."""
    from xrec.lab.compare.sheet import write_sheet

    found = output(config, exact=False).found()
    if found.state != "up to date" or found.manifest is None:
        raise ArtifactNotFoundError(
            f"{config.artifact('comparison')}: the comparison is {found.state}, expected a "
            "finished one with these settings; run xrec lab compare first",
            code="no_comparison",
            key="comparison",
            saw=found.state,
        )
    return write_sheet(config, found.manifest, uri, num_pairs=num_pairs, seed=seed)


def read_sheets(config: CompareConfig, uris: Sequence[str]) -> "Ratings":
    """Return what judges say of a comparison's texts in their sheets."""
    from xrec.lab.compare.sheet import read_sheets

    return read_sheets(config, uris)
