"""The entries without users and items: a language model with our prompt, in words only.

zero_shot is the frozen model. lora is the same model with low-rank weights (xrec.lab.baselines).
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from transformers import PreTrainedModel

from xrec.backfill.task import MakeExplainTask
from xrec.bulk import Identity
from xrec.config import CompareConfig, ExplanationsJobConfig, identity_of
from xrec.generate.explainer import Explainer
from xrec.lab.compare.entries import ComparedPairs, Entry, backfill_of
from xrec.lab.compare.texts import EntryTexts, write_texts
from xrec.llm.model import load_llm, resolve_device
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import fingerprint_of, manifest_of
from xrec.text.writers import explainer_from_words

logger = logging.getLogger("xrec")

LoadModel = Callable[[ExplanationsJobConfig, torch.device], PreTrainedModel]
"""Loads the model that writes, on the device."""


def frozen_model(config: ExplanationsJobConfig, device: torch.device) -> PreTrainedModel:
    """The language model as it is; raises ModelError if it cannot be had."""
    assert config.llm is not None
    return load_llm(config.llm, resolve_model(config.llm, config.storage), device)


def text_only_texts(
    config: CompareConfig,
    entry: Entry,
    pairs: ComparedPairs,
    *,
    inputs: dict[str, str],
    load: LoadModel,
) -> EntryTexts:
    """Write the texts of the model that `load` gives, as far as that is not done.

    inputs: what the model is made from. The costs are those of writing. Raises what a backfill
    raises.
    """
    explanations = entry.location / "explanations"
    backfill = backfill_of(config, entry.seed or 0, pairs.uri, explanations, explanations)
    logger.info("%s: writing texts", entry.title)
    llm, dataset = config.llm, manifest_of(config, "dataset")
    folder = resolve_model(llm, config.storage)
    identity = Identity(
        kind="explanations",
        config={**identity_of(backfill), "pairs": pairs.fingerprint},
        inputs={
            "dataset": dataset.fingerprint,
            "graph": manifest_of(config, "graph").fingerprint,
            "base_model": model_fingerprint(folder),
            **inputs,
        },
    )
    texts = write_texts(backfill, identity, partial(load_text_only, load))
    return replace(texts, costs={**texts.costs, "num_trained_parameters": 0})


def load_text_only(load: LoadModel, made: MakeExplainTask) -> Explainer:
    """Return the explainer in an actor's process, whose prompts have no collaborative tokens."""
    model = load(made.config, resolve_device(made.config.actors.device))
    return explainer_from_words(made.config, model, fingerprint_of(made.shared_key))
