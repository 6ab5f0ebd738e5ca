"""How likely the references are to a contestant with an adapter, kept beside its texts.

With each user's own vector, and with another user's: what of it is the vector's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.backfill.identity import sources_of
from xrec.bulk.pool import map_in_processes
from xrec.bulk.ray_actors import gpus_each
from xrec.config.comparison import ComparisonConfig
from xrec.config.contestants import ADAPTERS
from xrec.data.held_out import HeldOutPair
from xrec.evaluate import other_users
from xrec.generate.explainer import Explainer
from xrec.generate.loading import Sources, load_explainer
from xrec.generate.scoring import fitting_pairs, nll_own_and_shuffled
from xrec.lab.compare.adapters import adapter_runs
from xrec.lab.compare.entries import Entry, kept_manifest
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.measures.measure import MetricInfo
from xrec.progress import progress
from xrec.storage import MANIFEST, read_manifest, read_table, write_manifest, write_table

LIKELIHOODS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("nll", pa.float64()),
        pa.field("personalization_gain", pa.float64()),
    ]
)
"""A row a pair; null where the prompt is too long."""
INFOS = (
    MetricInfo(
        "nll",
        "NLL, nats a token",
        "lower",
        "Negative log-likelihood of the reference and its end, with the user's own vector.",
        4,
    ),
    MetricInfo(
        "personalization_gain",
        "Gain of the own vector, nats a token",
        "higher",
        "NLL with another user's vector minus NLL with the user's own.",
        4,
    ),
)
_FILE = "likelihoods.parquet"


@dataclass(frozen=True)
class WeighingTask:
    """What a process needs in order to weigh the references of the pairs."""

    config: ComparisonConfig
    pairs: Sequence[HeldOutPair]

    def weigh(self, sources: Sources) -> pa.Table:
        """The table LIKELIHOODS by an adapter's model; raises what `load_explainer` raises."""
        config = self.config
        explainer = load_explainer(sources, device=config.actors.device, engine=config.engine)
        return likelihoods_of(explainer, self.pairs, seed=config.pairs_seed)


WeighAll = Callable[[WeighingTask, Sequence[Sources]], Iterator[tuple[int, pa.Table]]]
"""The place and the table of each of some adapters, in any order."""


def likelihoods_of(explainer: Explainer, pairs: Sequence[HeldOutPair], *, seed: int) -> pa.Table:
    """The table LIKELIHOODS of the pairs; the seed says which user stands in for which."""
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], seed)
    ]
    fits = fitting_pairs(explainer, pairs)
    weighed = nll_own_and_shuffled(explainer, pairs, others, fits)
    rows = [
        {
            "user_id": pair.user_id,
            "item_id": pair.item_id,
            "nll": own,
            "personalization_gain": None if own is None or other is None else other - own,
        }
        for pair, (own, other) in zip(pairs, weighed, strict=True)
    ]
    return pa.Table.from_pylist(rows, LIKELIHOODS)


def weigh_on_ray(task: WeighingTask, adapters: Sequence[Sources]) -> Iterator[tuple[int, pa.Table]]:
    """Weigh in processes of Ray, each of which loads one adapter and ends; Ray must be initialised.

    As many are at work as `actors` says. Raises the XRecError of a process, or ClusterError.
    """
    actors, engine = task.config.actors, task.config.engine
    at_once = min(actors.num_actors, len(adapters))
    return map_in_processes(
        lambda: task.weigh,
        adapters,
        num_processes=at_once,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, at_once, engine.tensor_parallel_size),
        fresh=True,
    )


def weigh_entries(
    config: ComparisonConfig,
    pairs: ComparedPairs,
    entries: Sequence[Entry],
    computation: Mapping[str, str] | None,
    weigh_all: WeighAll = weigh_on_ray,
) -> dict[Entry, pa.Table]:
    """The likelihoods of the entries with an adapter, where `likelihood` asks for them.

    What is there with the same adapter and settings is taken, and the others are weighed.
    computation: what they are weighed with, as the comparison records it.
    """
    if not config.likelihood:
        return {}
    weighed = [entry for entry in entries if entry.contestant in ADAPTERS]
    settings = {
        "pairs": pairs.fingerprint,
        "seed": config.pairs_seed,
        "computation": computation,
    }
    found = {entry: _kept(entry, settings) for entry in weighed}
    left = [entry for entry in weighed if found[entry] is None]
    if left:
        task = WeighingTask(config, pairs.pairs)
        sources = [sources_of(adapter_runs(config, entry, pairs.uri)[1]) for entry in left]
        tables = weigh_all(task, sources)
        for place, table in progress(tables, "weighing references", len(left)):
            found[left[place]] = _keep(left[place], settings, table)
    return {entry: table for entry in weighed if (table := found[entry]) is not None}


def with_likelihoods(scores: pa.Table, likelihoods: pa.Table | None) -> pa.Table:
    """`Measures.of_pairs`'s table with the likelihoods of the same pairs as further columns."""
    if likelihoods is None:
        return scores
    for info in INFOS:
        scores = scores.append_column(info.name, likelihoods[info.name])
    return scores


def _inputs(entry: Entry) -> dict[str, str]:
    return {"adapter": read_manifest(entry.location / "adapter", "adapter").fingerprint}


def _kept(entry: Entry, settings: Mapping[str, Any]) -> pa.Table | None:
    location = entry.location / "likelihoods"
    manifest = kept_manifest(location, "likelihoods", settings, _inputs(entry))
    return None if manifest is None else read_table(location / _FILE, LIKELIHOODS)


def _keep(entry: Entry, settings: Mapping[str, Any], table: pa.Table) -> pa.Table:
    location, inputs = entry.location / "likelihoods", _inputs(entry)
    (location / MANIFEST).delete()  # it is of other likelihoods
    write_manifest(
        location,
        "likelihoods",
        config=settings,
        inputs=inputs,
        files={_FILE: write_table(location / _FILE, table, LIKELIHOODS)},
        row_counts={"pairs": table.num_rows},
    )
    return table
