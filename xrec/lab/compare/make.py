"""An entry's texts: trained and written as far as that is not done, by the kind of entry."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from transformers import PreTrainedModel

from xrec.adapter.artifact import read_adapter
from xrec.backfill.identity import identify
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.compare import CompareConfig
from xrec.config.entries import ADAPTERS, BASELINES, BaselineKind
from xrec.data.dataset import Dataset
from xrec.data.splits import drawn_explanations
from xrec.errors import DataError
from xrec.generate.loading import Sources
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.lab.baselines import Baseline, train_baseline, write_baseline_texts
from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.baseline import recipe_of
from xrec.lab.baselines.lora import LoRA
from xrec.lab.compare.copies import Texts, nearest_texts, profile_texts, read_elsewhere
from xrec.lab.compare.entries import ComparedPairs, Entry
from xrec.lab.compare.text_only import frozen_model, text_only_texts
from xrec.lab.compare.texts import (
    Costs,
    EntryTexts,
    keep_texts,
    kept_texts,
    pairs_per_second,
    texts_of_run,
    write_texts,
)
from xrec.llm.source import anywhere
from xrec.storage import (
    Manifest,
    content_hash,
    finished,
    location_of,
    manifest_of,
    open_location,
)
from xrec.train.adapter import train_adapter

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Inputs:
    """What all entries are made from."""

    config: CompareConfig
    dataset: Dataset
    pairs: ComparedPairs

    @cached_property
    def graph(self) -> GraphEmbeddings:
        """The graph's vectors; raises ArtifactMismatchError for another dataset's."""
        config = self.config
        manifest = manifest_of(config, "graph")
        uris = config.artifact("graph"), config.artifact("dataset")
        check_graph_of_dataset(manifest, self.dataset.manifest, *uris)
        return read_graph(location_of(config, "graph"))


def make(given: Inputs, entry: Entry) -> EntryTexts:
    """The entry's texts and costs; raises what the trainings and bulk runs raise."""
    config, pairs = given.config, given.pairs
    if entry.name in ADAPTERS:
        return adapter_texts(config, entry, pairs)
    if entry.name in BASELINES:
        return baseline_texts(config, entry, pairs)
    if entry.name == "zero_shot":
        return text_only_texts(config, entry, pairs, inputs={}, load=frozen_model)
    if entry.name == "profile":
        return _copied(given, entry, profile_texts(given.dataset, pairs.pairs), {})
    if entry.name == "nearest":
        count = config.training.max_pairs
        explained = given.dataset.explained_pairs("train")
        known = drawn_explanations(given.dataset, explained, count)
        texts = nearest_texts(known, given.graph, pairs.pairs)
        inputs = {"graph": given.graph.manifest.fingerprint}
        return _copied(given, entry, texts, inputs, max_pairs=count)
    return elsewhere_texts(given, entry)


def adapter_runs(
    config: CompareConfig, entry: Entry, pairs_uri: str
) -> tuple[TrainAdapterConfig, BackfillConfig]:
    """The training and the bulk run of an adapter, with their outputs in the entry's folder."""
    adapter, explanations = ((entry.location / name).uri for name in ("adapter", "explanations"))
    return (
        config.training_of(entry.name, entry.drawn_with, adapter),
        config.backfill_of(entry.drawn_with, pairs_uri, explanations, adapter),
    )


def adapter_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's adapter and write its texts, as far as that is not done."""
    training, backfill = adapter_runs(config, entry, pairs.uri)
    logger.info("%s: training", entry.title)
    train_adapter(training)
    logger.info("%s: writing texts", entry.title)
    manifest = write_texts(backfill, identify(backfill))
    trained = entry.location / "adapter"
    adapters = read_adapter(trained).adapters
    weights = [each for side in (adapters.user, adapters.item) for each in side.parameters()]
    history = json.loads((trained / "history.json").read_text())
    costs = Costs(
        training_seconds=float(sum(row["seconds"] for row in history)),
        num_trained_parameters=sum(weight.numel() for weight in weights),
        pairs_per_second=pairs_per_second(manifest),
    )
    texts = texts_of_run(entry.location / "explanations", manifest, config.storage)
    return replace(texts, costs=costs)


@dataclass(frozen=True)
class LoadMerged:
    """Loads the language model with low-rank weights (`LoadModel`)."""

    baseline: Baseline

    def __call__(self, sources: Sources, device: torch.device) -> PreTrainedModel:
        """The model with the sum of both weights."""
        model = read_baseline(self.baseline, device).model
        assert isinstance(model, LoRA)
        return model.merged()


def baseline_of(config: CompareConfig, entry: Entry) -> Baseline:
    """The baseline of an entry, with its outputs in its folder."""
    kind = cast(BaselineKind, entry.name)
    return Baseline(
        kind=kind,
        seed=entry.drawn_with,
        recipe=recipe_of(kind, config.baselines),
        dataset=location_of(config, "dataset").shared_uri,
        aspects=location_of(config, "aspects").shared_uri,
        output=(entry.location / "model").shared_uri,
        max_pairs=config.training.max_pairs,
        llm=None if config.llm is None else anywhere(config.llm),
        prompt=config.prompt,
        storage=config.storage,
        scaling=config.scaling,
        actors=config.actors,
    )


def baseline_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's baseline and write its texts, as far as that is not done."""
    baseline = baseline_of(config, entry)
    logger.info("%s: training", entry.title)
    trained = train_baseline(baseline)
    logger.info("%s: writing texts", entry.title)
    if baseline.kind == "lora":
        inputs = {"baseline": trained.fingerprint}
        texts = text_only_texts(config, entry, pairs, inputs=inputs, load=LoadMerged(baseline))
        rate = texts.costs.pairs_per_second
    else:
        manifest = _written(baseline, entry, pairs, trained.fingerprint)
        texts = kept_texts(entry.location / "texts", manifest)
        rate = manifest.metrics["pairs_per_second"]
    costs = Costs(
        training_seconds=trained.metrics["training_seconds"],
        num_trained_parameters=trained.metrics["num_trained_parameters"],
        pairs_per_second=rate,
    )
    return replace(texts, costs=costs)


def _written(baseline: Baseline, entry: Entry, pairs: ComparedPairs, trained: str) -> Manifest:
    """Write and keep the texts, unless they are there; returns their manifest."""
    location = entry.location / "texts"
    config, inputs = {"pairs": pairs.fingerprint}, {"baseline": trained}
    if (done := finished(location, "texts", config, inputs)) is not None:
        return done
    indices = [(pair.user_index, pair.item_index) for pair in pairs.pairs]
    texts, rate = write_baseline_texts(baseline, indices)
    written = {ids: text or None for ids, text in zip(pairs.ids, texts, strict=True)}
    metrics = {"pairs_per_second": rate}
    return keep_texts(location, written, config=config, inputs=inputs, metrics=metrics)


def _copied(
    given: Inputs, entry: Entry, texts: Texts, inputs: Mapping[str, str], **settings: int | None
) -> EntryTexts:
    """Keep texts for which nothing is trained."""
    location, about = entry.location / "texts", {"entry": entry.name}
    manifest = keep_texts(
        location,
        texts,
        config={**about, "pairs": given.pairs.fingerprint, **settings},
        inputs={"dataset": given.dataset.manifest.fingerprint, **inputs},
    )
    return replace(kept_texts(location, manifest), costs=Costs(num_trained_parameters=0))


def elsewhere_texts(given: Inputs, entry: Entry) -> EntryTexts:
    """Texts from elsewhere; raises DataError if none is of a pair that is compared."""
    name, config, ids = entry.name, given.config, given.pairs.ids
    source = config.texts[name]
    texts = read_elsewhere(name, source, config.storage)
    if not any(map(texts.get, ids)):
        raise DataError(
            f"entry {name!r}: {source.uri} has {len(texts)} texts, of none of the {len(ids)} "
            f"pairs that are compared, such as user {ids[0][0]!r} and item {ids[0][1]!r}; give "
            f"texts of the split {config.split!r}, or choose the other one"
        )
    location, about = entry.location / "texts", source.model_dump(mode="json", exclude={"uri"})
    content = open_location(source.uri, config.storage).read_bytes()
    manifest = keep_texts(
        location,
        {pair: texts.get(pair) for pair in ids},
        config={**about, "pairs": given.pairs.fingerprint},
        inputs={
            "dataset": given.dataset.manifest.fingerprint,
            "texts": content_hash(content),
        },
    )
    return kept_texts(location, manifest)
