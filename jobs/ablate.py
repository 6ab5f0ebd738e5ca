"""Job `ablate`: the method is trained and scored without each of its parts, to see their worth."""

import logging

from cluster.connect import ensure_ray
from jobs.explainer import computed_by, load_explainer_here
from jobs.output import Output
from jobs.train_adapter import check_training_cluster, training_inputs
from xrec.checks import check_word_list
from xrec.config.evaluate import AblateConfig
from xrec.config.variants import Variant
from xrec.data.dataset import check_has_explanations, read_dataset
from xrec.data.drawn import drawn_pairs
from xrec.data.held_out import HeldOutPair, held_out_pairs
from xrec.errors import DataError
from xrec.evaluate import other_users
from xrec.evaluate.ablation import ABLATION_REPORT, compute_ablation, write_ablation
from xrec.evaluate.encoder import TextEncoder, load_encoder
from xrec.evaluate.scores import ScoredPair
from xrec.evaluate.variant_scores import of_the_same_pairs, read_scores, write_scores
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import fitting_pairs, nll_own_and_shuffled, own_pairs, usable_texts
from xrec.llm.model import resolve_device
from xrec.storage import (
    Location,
    Manifest,
    check_artifacts,
    finished,
    location_of,
    read_manifest,
)
from xrec.train.adapter import adapter_run_config, train_adapter

logger = logging.getLogger("xrec")

_CONTENT = {
    "variants",
    "split",
    "max_pairs",
    "max_generations",
    "encoder",
    "bootstrap_samples",
    "seed",
    "decoding",
}
_OF_SCORES = {"split", "max_pairs", "max_generations", "seed", "decoding"}


def output(config: AblateConfig, *, exact: bool = True) -> Output:
    """The ablation that `config` asks for; see jobs.output."""
    location = location_of(config, "ablation")
    computed, not_known = computed_by(config, exact=exact)
    settings = {
        **config.model_dump(mode="json", include=_CONTENT),
        **adapter_run_config(config.training_of("full", location.uri)),
        **computed,
    }
    inputs, unchecked = training_inputs(config, exact=exact)
    return Output(location, "ablation", settings, inputs, unchecked=(*unchecked, *not_known))


def run(config: AblateConfig) -> Manifest:
    """Train and score each variant that is not there yet, then compare them; returns the manifest.

    If a run with the same settings and inputs is finished, its manifest is returned. Raises what
    training and the loading of a model raise, ArtifactMismatchError for another run's output,
    DataError if fewer than two users have held-out pairs.
    """
    check_artifacts(config, "dataset", "graph", "ablation")
    check_word_list(config.decoding.text.checks, config.storage)
    check_has_explanations(location_of(config, "dataset"))
    made = output(config)
    if (done := made.done()) is not None:
        return done
    target = made.location
    pairs = _drawn_pairs(config)
    with ensure_ray(config.ray):
        check_training_cluster(config.training_of("full", target.uri), target.uri)
        for variant in config.variants:
            logger.info("variant %s: training", variant)
            train_adapter(config.training_of(variant, _adapter(target, variant).uri))
    scores = of_the_same_pairs(
        {variant: _scores(config, target, variant, pairs) for variant in config.variants}
    )
    metrics = compute_ablation(
        scores,
        encoder=_encoder(config),
        batch_size=config.batch_size,
        num_samples=config.bootstrap_samples,
        seed=config.seed,
    )
    manifest = write_ablation(target, scores, metrics, config=made.config, inputs=made.inputs)
    logger.info("%d variants: %s", len(scores), target / ABLATION_REPORT)
    return manifest


def _adapter(output: Location, variant: Variant) -> Location:
    return output / variant / "adapter"


def _drawn_pairs(config: AblateConfig) -> list[HeldOutPair]:
    pairs = held_out_pairs(read_dataset(location_of(config, "dataset")), config.split)
    drawn = drawn_pairs(pairs, config.max_pairs, seed=config.seed)
    if len({pair.user_id for pair in drawn}) < 2:
        raise DataError(
            f"{config.artifact('dataset')}: {len(drawn)} explained pairs in split "
            f"{config.split!r}, of fewer than two users; another user's vector needs two: "
            "choose the other split, or "
            "prepare the dataset with a larger share for it"
        )
    return drawn


def _scores(
    config: AblateConfig, output: Location, variant: Variant, pairs: list[HeldOutPair]
) -> list[ScoredPair]:
    """The variant's scores, read if they are there."""
    location = output / variant / "scores"
    computed, _ = computed_by(config, exact=True)
    run_config = {**config.model_dump(mode="json", include=_OF_SCORES), **computed}
    inputs = {"adapter": read_manifest(_adapter(output, variant), "adapter").fingerprint}
    if finished(location, "scores", run_config, inputs) is None:
        logger.info("variant %s: scoring", variant)
        explainer = load_explainer_here(config, adapter=_adapter(output, variant).uri)
        write_scores(
            location, score_variant(explainer, pairs, config), config=run_config, inputs=inputs
        )
    return read_scores(location)


def _encoder(config: AblateConfig) -> TextEncoder | None:
    if config.encoder is None or not config.max_generations:
        return None
    return load_encoder(
        config.encoder, cache_dir=config.llm.cache_dir, device=str(resolve_device(config.device))
    )


def score_variant(
    explainer: Explainer, pairs: list[HeldOutPair], config: AblateConfig
) -> list[ScoredPair]:
    """The scores of the pairs whose prompt fits; a sample of them is asked for a text too.

    A text that a rule refuses is "".
    """
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], config.seed)
    ]
    fits = fitting_pairs(explainer, pairs)
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    others_kept = [other for other, fit in zip(others, fits, strict=True) if fit]
    nll_own, nll_shuffled = nll_own_and_shuffled(explainer, kept, others_kept)
    asked = drawn_pairs(kept, config.max_generations, seed=config.seed)
    # A ranker knows the texts of one adapter, and each variant has its own.
    decoding = config.decoding.model_copy(update={"num_candidates": 1})
    written = usable_texts(explainer, own_pairs(asked), decoding, "texts")
    texts = {pair: text or "" for pair, text in zip(asked, written, strict=True)}
    return [
        ScoredPair(
            user_id=pair.user_id,
            item_id=pair.item_id,
            reference=pair.reference,
            nll_own=nll_own[index],
            nll_shuffled=nll_shuffled[index],
            explanation=texts.get(pair),
            aspect=pair.aspect,
            aspects=pair.aspects,
        )
        for index, pair in enumerate(kept)
    ]


if __name__ == "__main__":
    from jobs.command.commands import run_job

    run_job("ablate")
