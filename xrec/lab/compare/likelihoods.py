"""How likely the references are to a contestant with an adapter, kept beside its texts.

With each user's own vector, and with another user's: what of it is the vector's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from xrec.backfill.identity import sources_of
from xrec.bulk.pool import map_in_processes
from xrec.bulk.ray_actors import gpus_each
from xrec.config.compare import CompareConfig
from xrec.config.contestants import ADAPTERS
from xrec.data.dataset import HeldOutPair
from xrec.evaluate.scores import other_users
from xrec.generate.explainer import Explainer
from xrec.generate.loading import Sources, load_explainer
from xrec.generate.scoring import fitting_pairs, nll_own_and_shuffled
from xrec.lab.compare.adapters import adapter_runs
from xrec.lab.compare.entries import Entry, keep_table, kept_table
from xrec.lab.compare.pairs import SEED, ComparedPairs
from xrec.lab.measures.measure import MetricInfo
from xrec.progress import progress
from xrec.storage import read_manifest

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


@dataclass(frozen=True)
class WeighingTask:
    """What a process needs in order to weigh the references of the pairs."""

    config: CompareConfig
    pairs: Sequence[HeldOutPair]

    def weigh(self, sources: Sources) -> pa.Table:
        """The table LIKELIHOODS by an adapter's model; raises what `load_explainer` raises."""
        config = self.config
        explainer = load_explainer(sources, device=config.actors.device, engine=config.engine)
        return likelihoods_of(explainer, self.pairs)


WeighAll = Callable[[WeighingTask, Sequence[Sources]], Iterator[tuple[int, pa.Table]]]
"""The place and the table of each of some adapters, in any order."""


def likelihoods_of(explainer: Explainer, pairs: Sequence[HeldOutPair]) -> pa.Table:
    """The table LIKELIHOODS of the pairs."""
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], SEED)
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
    config: CompareConfig,
    pairs: ComparedPairs,
    entries: Sequence[Entry],
    weigh_all: WeighAll = weigh_on_ray,
) -> dict[Entry, pa.Table]:
    """The likelihoods of the entries with an adapter, where `likelihood` asks for them.

    What is there with the same adapter and settings is taken, and the others are weighed.
    """
    if not config.likelihood:
        return {}
    settings = {"pairs": pairs.fingerprint, "dtype": config.language_model.dtype}
    weighed = [entry for entry in entries if entry.contestant in ADAPTERS]
    inputs = {
        entry: {"adapter": read_manifest(entry.location / "adapter", "adapter").fingerprint}
        for entry in weighed
    }
    places = {entry: entry.location / "likelihoods" for entry in weighed}
    kept = {
        entry: kept_table(places[entry], "likelihoods", settings, inputs[entry])
        for entry in weighed
    }
    found = {entry: each[0] for entry, each in kept.items() if each is not None}
    left = [entry for entry in weighed if entry not in found]
    if left:
        task = WeighingTask(config, pairs.pairs)
        sources = [sources_of(adapter_runs(config, entry, pairs.uri)[1]) for entry in left]
        tables = weigh_all(task, sources)
        for place, table in progress(tables, "weighing references", len(left)):
            entry = left[place]
            keep_table(places[entry], "likelihoods", table, settings, inputs[entry])
            found[entry] = table
    return found


def with_likelihoods(scores: pa.Table, likelihoods: pa.Table | None) -> pa.Table:
    """`Measures.of_pairs`'s table with the likelihoods of the same pairs as further columns."""
    if likelihoods is None:
        return scores
    for info in INFOS:
        scores = scores.append_column(info.name, likelihoods[info.name])
    return scores
