"""The contestants with an adapter: ours and its variants, each an `xrec train-adapter` run."""

import json
import logging
from dataclasses import replace

from xrec.adapter.artifact import read_adapter
from xrec.backfill.identity import identify
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.compare import CompareConfig
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.compare.texts import Costs, EntryTexts, pairs_per_second, texts_of_run, write_texts
from xrec.storage import Location
from xrec.train.adapter import train_adapter

logger = logging.getLogger("xrec")


def adapter_runs(
    config: CompareConfig, entry: Entry, pairs_uri: str
) -> tuple[TrainAdapterConfig, BackfillConfig]:
    """The training and the bulk run of an entry, with their outputs in its folder."""
    adapter = (entry.location / "adapter").uri
    explanations = (entry.location / "explanations").uri
    return (
        config.training_of(entry.contestant, entry.drawn_with, adapter),
        config.backfill_of(entry.drawn_with, pairs_uri, explanations, adapter),
    )


def adapter_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's adapter and write its texts, as far as that is not done.

    Raises what `train_adapter` and a backfill raise.
    """
    training, backfill = adapter_runs(config, entry, pairs.uri)
    logger.info("%s: training", entry.name)
    train_adapter(training)
    logger.info("%s: writing texts", entry.name)
    manifest = write_texts(backfill, identify(backfill))
    costs = Costs(
        training_seconds=_training_seconds(entry.location / "adapter"),
        num_trained_parameters=_num_parameters(entry.location / "adapter"),
        pairs_per_second=pairs_per_second(manifest),
    )
    texts = texts_of_run(entry.location / "explanations", manifest, config.storage)
    return replace(texts, costs=costs)


def _training_seconds(adapter: Location) -> float | None:
    """The time of all epochs; None for an adapter without a history, which is only a log."""
    history = adapter / "history.json"
    if not history.is_file():
        return None
    return float(sum(row["seconds"] for row in json.loads(history.read_text())))


def _num_parameters(location: Location) -> int:
    adapters = read_adapter(location).adapters
    modules = (adapters.user, adapters.item)
    return sum(weight.numel() for module in modules for weight in module.parameters())
