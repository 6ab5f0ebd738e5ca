"""Job `train-ranker`: validation pairs in, a ranker of the texts that are drawn for a pair out."""

import logging
from typing import Any

import numpy as np

from jobs.explainer import computed_by, load_explainer_here
from jobs.output import Output, llm_fingerprint
from xrec.adapter.artifact import read_adapter
from xrec.aspects import aspects_of
from xrec.config.ranker import TrainRankerConfig
from xrec.data.held_out import HeldOutPair, held_out_pairs
from xrec.errors import DataError
from xrec.evaluate.ranker import RankedPair, TrainedRanker, train_ranker, worth_of
from xrec.generate.candidates import write_ranker
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import fitting_pairs, own_pairs, prompts_of
from xrec.storage import Manifest, check_artifacts, location_of, manifest_of

logger = logging.getLogger("xrec")


def output(config: TrainRankerConfig, *, exact: bool = True) -> Output:
    """The ranker that `config` asks for; see jobs.output."""
    base_model = llm_fingerprint(config, config.llm, exact=exact)
    dataset = manifest_of(config, "dataset")
    inputs = {
        "dataset": dataset.fingerprint,
        "graph": manifest_of(config, "graph").fingerprint,
        "adapter": manifest_of(config, "adapter").fingerprint,
        "base_model": base_model or "",
    }
    prompt = read_adapter(location_of(config, "adapter")).config.prompt
    aspects = aspects_of(prompt, config.artifact("aspects"), dataset, config.storage)
    if aspects is not None:
        inputs["aspects"] = aspects.fingerprint
    computed, unchecked = computed_by(config, exact=exact)
    settings: dict[str, Any] = {
        **config.model_dump(mode="json", include={"decoding", "training"}),
        **computed,
    }
    return Output(
        location_of(config, "ranker"),
        "ranker",
        settings,
        inputs,
        unchecked=(*unchecked, *(() if base_model else ("base_model",))),
    )


def run(config: TrainRankerConfig) -> Manifest:
    """Draw texts for validation pairs in this process and train; returns the manifest.

    If a run with the same settings and inputs is finished, nothing is done. Raises what
    `load_explainer` and `train_ranker` raise, DataError without validation pairs.
    """
    check_artifacts(config, "dataset", "graph", "adapter", "ranker")
    made = output(config)
    if (done := made.done()) is not None:
        return done
    explainer = load_explainer_here(config)
    pairs = _drawn(config, explainer)
    ranked = _ranked(config, explainer, pairs)
    training = config.training
    found = train_ranker(
        ranked, ridge=training.ridge, num_folds=training.num_folds, seed=training.seed
    )
    metrics = _metrics(found)
    logger.info("%d pairs: %s", len(pairs), metrics)
    return write_ranker(
        made.location,
        found.ranker,
        config=made.config,
        inputs=made.inputs,
        row_counts={"pairs": len(pairs), "candidates": sum(len(pair.worth) for pair in ranked)},
        metrics=metrics,
    )


def _drawn(config: TrainRankerConfig, explainer: Explainer) -> list[HeldOutPair]:
    pairs = held_out_pairs(explainer.dataset, "validation")
    fitting = [
        pair for pair, fits in zip(pairs, fitting_pairs(explainer, pairs), strict=True) if fits
    ]
    if not fitting:
        raise DataError(
            f"{config.artifact('dataset')}: none of {len(pairs)} validation pairs has a prompt "
            "that fits; the ranker is trained on them: prepare the dataset with a share for "
            "validation, or raise prompt.max_prompt_tokens"
        )
    order = np.random.default_rng(config.training.seed).permutation(len(fitting))
    return [fitting[index] for index in sorted(order[: config.training.max_pairs])]


def _ranked(
    config: TrainRankerConfig, explainer: Explainer, pairs: list[HeldOutPair]
) -> list[RankedPair]:
    prompts, texts = prompts_of(explainer, own_pairs(pairs))
    training = config.training
    decoding = config.decoding.model_copy(
        update={"num_candidates": training.num_candidates, "temperature": training.temperature}
    )
    ranked = []
    for pair, drawn in zip(pairs, explainer.candidates(prompts, texts, decoding), strict=True):
        usable = [each for each in drawn if each.failure is None]
        if usable:
            worth = worth_of(
                [each.text for each in usable], pair.reference, explainer.checker.aspects
            )
            ranked.append(RankedPair(np.array([each.features for each in usable]), worth))
    return ranked


def _metrics(found: TrainedRanker) -> dict[str, float]:
    return {name: round(getattr(found, name), 4) for name in ("chosen", "first", "best")}
