"""The baselines of a comparison, each trained and asked for its texts in the entry's folder."""

import logging
from dataclasses import dataclass, replace
from typing import cast

import torch
from transformers import PreTrainedModel

from xrec.config.baselines import BaselineKind
from xrec.config.compare import CompareConfig
from xrec.generate.loading import Sources
from xrec.lab.baselines import Baseline, train_baseline, write_baseline_texts
from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.models.lora import LoRA
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.compare.text_only import text_only_texts
from xrec.lab.compare.texts import Costs, EntryTexts, keep_texts, kept_texts
from xrec.llm.source import anywhere
from xrec.storage import Manifest, finished, location_of

logger = logging.getLogger("xrec")


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
    kind = cast(BaselineKind, entry.contestant)
    return Baseline(
        kind=kind,
        seed=entry.drawn_with,
        recipe=config.recipe_of(kind),
        dataset=location_of(config, "dataset").shared_uri,
        aspects=location_of(config, "aspects").shared_uri,
        output=(entry.location / "model").shared_uri,
        max_pairs=config.max_training_pairs,
        llm=None if config.llm is None else anywhere(config.llm),
        prompt=config.prompt,
        storage=config.storage,
        scaling=config.scaling,
        actors=config.actors,
    )


def baseline_texts(config: CompareConfig, entry: Entry, pairs: ComparedPairs) -> EntryTexts:
    """Train the entry's baseline and write its texts, as far as that is not done.

    Raises what `train_baseline`, `write_baseline_texts` and a backfill raise.
    """
    baseline = baseline_of(config, entry)
    logger.info("%s: training", entry.name)
    trained = train_baseline(baseline)
    logger.info("%s: writing texts", entry.name)
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
    ids = [(pair.user_id, pair.item_id) for pair in pairs.pairs]
    written = {pair: text or None for pair, text in zip(ids, texts, strict=True)}
    metrics = {"pairs_per_second": rate}
    return keep_texts(location, written, config=config, inputs=inputs, metrics=metrics)
