"""An entry's texts: trained and written as far as that is not done, by the kind of entry."""

import json
import logging
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from xrec.adapter.artifact import read_adapter
from xrec.backfill.identity import identify
from xrec.config import ADAPTERS, BASELINES, BaselineKind, CompareConfig, ExplanationsJobConfig
from xrec.data import Dataset, drawn_explanations
from xrec.errors import DataError
from xrec.graph.artifact import read_graph
from xrec.graph.identity import check_graph_of_dataset
from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.baseline import Baseline, recipe_of
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.texts import write_baseline_texts
from xrec.lab.baselines.train import train_baseline
from xrec.lab.compare.copies import Texts, nearest_texts, profile_texts, read_elsewhere
from xrec.lab.compare.entries import ComparedPairs, Entry, backfill_of, training_of
from xrec.lab.compare.text_only import frozen_model, text_only_texts
from xrec.lab.compare.texts import EntryTexts, write_texts
from xrec.schemas import PAIRS
from xrec.storage import finished, location_of, read_table, write_manifest, write_table
from xrec.train.adapter import train_adapter

logger = logging.getLogger("xrec")


TEXTS = PAIRS.append(pa.field("text", pa.string()))
"""A row a pair; null where it has no text."""


@dataclass(frozen=True)
class Inputs:
    """What all entries are made from."""

    config: CompareConfig
    dataset: Dataset
    pairs: ComparedPairs


def make(given: Inputs, entry: Entry) -> EntryTexts:
    """Texts and costs of an entry that is not from elsewhere.

    Raises what the trainings and bulk runs raise.
    """
    config, pairs = given.config, given.pairs
    if entry.name in ADAPTERS:
        return adapter_texts(config, entry, pairs)
    if entry.name in BASELINES:
        return baseline_texts(config, entry, pairs)
    if entry.name == "endpoint":
        logger.info("%s: writing texts", entry.title)
        explanations = entry.location / "explanations"
        own = entry.seed or 0, pairs.uri, explanations, explanations, config.endpoint
        backfill = backfill_of(config, *own)
        return write_texts(backfill, identify(backfill))
    if entry.name == "zero_shot":
        return text_only_texts(config, entry, pairs, inputs={}, load=frozen_model)
    is_profile = entry.name == "profile"
    texts = profile_texts(given.dataset, pairs.pairs) if is_profile else _nearest(given)
    return EntryTexts.of(texts, num_trained_parameters=0)


def _nearest(given: Inputs) -> Texts:
    """Raises ArtifactMismatchError for a graph of another dataset."""
    config, dataset = given.config, given.dataset
    graph = read_graph(location_of(config, "graph"))
    uris = config.artifact("graph"), config.artifact("dataset")
    check_graph_of_dataset(graph.manifest, dataset.manifest, *uris)
    explained, count = dataset.explained_pairs("train"), config.training.max_pairs
    known = drawn_explanations(dataset, explained, count)
    return nearest_texts(known, graph, given.pairs.pairs)


def adapter_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's adapter and write its texts, as far as that is not done."""
    trained, explanations = entry.location / "adapter", entry.location / "explanations"
    seed = entry.seed or 0
    logger.info("%s: training", entry.title)
    train_adapter(training_of(config, entry.name, seed, trained))
    logger.info("%s: writing texts", entry.title)
    backfill = backfill_of(config, seed, pairs.uri, explanations, trained)
    texts = write_texts(backfill, identify(backfill))
    adapters = read_adapter(trained).adapters
    weights = [each for side in (adapters.user, adapters.item) for each in side.parameters()]
    history = json.loads((trained / "history.json").read_text())
    costs = {
        "training_seconds": float(sum(row["seconds"] for row in history)),
        "num_trained_parameters": sum(weight.numel() for weight in weights),
    }
    return replace(texts, costs={**texts.costs, **costs})


def baseline_of(config: CompareConfig, entry: Entry) -> Baseline:
    """The baseline of an entry, with its outputs in its folder."""
    kind = cast(BaselineKind, entry.name)
    recipe = recipe_of(kind, config.training)
    output = (entry.location / "model").uri
    return Baseline(kind, entry.seed or 0, recipe, config, output)


def baseline_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's baseline and write its texts, as far as that is not done."""
    baseline = baseline_of(config, entry)
    logger.info("%s: training", entry.title)
    trained = train_baseline(baseline)
    logger.info("%s: writing texts", entry.title)
    if baseline.kind == "lora":

        def merged(_: ExplanationsJobConfig, device: torch.device) -> PreTrainedModel:
            model = read_baseline(baseline, device).model
            assert isinstance(model, LoRA)
            return model.merged()

        inputs = {"baseline": trained.fingerprint}
        texts = text_only_texts(config, entry, pairs, inputs=inputs, load=merged)
    else:
        texts = _written(baseline, entry, pairs, trained.fingerprint)
    names = ("training_seconds", "num_trained_parameters")
    measured = {name: trained.metrics[name] for name in names}
    return replace(texts, costs={**texts.costs, **measured})


def _written(baseline: Baseline, entry: Entry, pairs: ComparedPairs, trained: str) -> EntryTexts:
    """The texts, with how many a process wrote a second; they are kept as an artifact `texts`."""
    location, file = entry.location / "texts", "texts.parquet"
    settings, inputs = {"pairs": pairs.fingerprint}, {"baseline": trained}
    if (done := finished(location, "texts", settings, inputs)) is None:
        indices = [(pair.user_index, pair.item_index) for pair in pairs.pairs]
        texts, rate = write_baseline_texts(baseline, indices)
        users, items = zip(*(pair.ids for pair in pairs.pairs), strict=True)
        rows = [users, items, [text or None for text in texts]]
        done = write_manifest(
            location,
            "texts",
            config=settings,
            inputs=inputs,
            files={file: write_table(location / file, pa.table(rows, TEXTS.names), TEXTS)},
            row_counts={"texts": sum(map(bool, texts))},
            metrics={"pairs_per_second": rate},
        )
    kept = read_table(location / file, TEXTS).to_pylist()
    found = {(row["user_id"], row["item_id"]): row["text"] for row in kept}
    return EntryTexts.of(found, pairs_per_second=done.metrics["pairs_per_second"])


def elsewhere_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Texts from elsewhere; raises DataError if none is of a pair that is compared."""
    source, ids = config.texts[entry.name], [pair.ids for pair in pairs.pairs]
    texts = read_elsewhere(entry.name, source, config.storage)
    if not any(map(texts.get, ids)):
        raise DataError(
            f"entry {entry.name!r}: {source.uri} has {len(texts)} texts, of none of the {len(ids)} "
            f"pairs that are compared, such as user {ids[0][0]!r} and item {ids[0][1]!r}; give "
            "texts of split test",
            code="texts_of_other_pairs",
            key=entry.name,
            saw=len(texts),
        )
    return EntryTexts.of({pair: texts.get(pair) for pair in ids})
