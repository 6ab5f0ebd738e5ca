"""The variants of the planted benchmark: what each changes, and how it is trained and scored."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.planted_data import Division, Town
from benchmarks.planted_training import load_frozen, train
from xrec.adapter.pairs import PairPrompts
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.decoding import DecodingConfig
from xrec.config.llm import EngineConfig
from xrec.data.dataset import HeldOutPair
from xrec.evaluate.scores import other_users
from xrec.evaluate.text_metrics import aspect_pattern, chance_level, names_only
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import generated_texts, own_pairs, reference_nll, shuffled_pairs
from xrec.llm.model import stop_token_ids
from xrec.sample import ASPECTS

CONSTANT, STATED = "constant", "text-favourite"
VARIANTS: dict[str, dict[str, str]] = {
    **{name: {"vectors": "graph", "injection": name} for name in ("projected", "direct", "none")},
    "random": {"vectors": "random"},
    CONSTANT: {"vectors": "constant"},
    STATED: {},  # without an adapter
}
_DECODING = DecodingConfig(max_new_tokens=40)


def configured(config: TrainAdapterConfig, variant: str, seed: int) -> TrainAdapterConfig:
    """Return `config` as `variant` and `seed` change it."""
    model = config.model.model_copy(update={**VARIANTS[variant], "vectors_seed": seed})
    return config.model_copy(
        update={"model": model, "training": config.training.model_copy(update={"seed": seed})}
    )


@dataclass(frozen=True)
class Scores:
    """The scores of one kind of pairs; each list has an entry for each pair."""

    user_id: list[str]
    right: list[bool]
    right_shuffled: list[bool]
    nll: list[float]
    nll_shuffled: list[float]
    chance: float


def run_variant(
    town: Town, config: TrainAdapterConfig, division: Division, variant: str
) -> dict[str, Any]:
    """Train and score; return losses by epoch, seconds, and the `Scores` of each kind as values."""
    started = time.monotonic()
    prompts: PairPrompts
    if variant == STATED:
        model, history = load_frozen(town, config), []
        prompts = town.stated_prompts(config.prompt)
    else:
        prompts = town.prompts(config.prompt, config.model.num_tokens)
        examples = [
            prompts.examples(pairs, config.training.max_explanation_tokens)[0]
            for pairs in (division.train, division.validation)
        ]
        trained = train(town, config, *examples)
        model, history = trained.model, trained.history
    trained_at = time.monotonic()
    engine = load_engine(model, stop_token_ids(model, town.tokenizer), EngineConfig())
    explainer = Explainer(model, engine, prompts, town.dataset, town.graph, "benchmark")
    scores = {
        kind: asdict(score(explainer, pairs, config.training.seed))
        for kind, pairs in division.scored.items()
    }
    seconds = {
        "training": round(trained_at - started, 1),
        "scoring": round(time.monotonic() - trained_at, 1),
    }
    return {"history": history, "seconds": seconds, "scores": scores}


def score(explainer: Explainer, pairs: Sequence[HeldOutPair], seed: int) -> Scores:
    """Score the pairs with the user's own vector and with another user's.

    The scores are whether the greedy text names the right aspect and no other, and the reference's
    NLL.
    """
    others = [
        explainer.dataset.user_index(user)
        for user in other_users([pair.user_id for pair in pairs], seed)
    ]
    ways = {"": own_pairs(pairs), "_shuffled": shuffled_pairs(pairs, others)}
    references, right = [pair.reference for pair in pairs], [pair.aspect or "" for pair in pairs]
    pattern = aspect_pattern(ASPECTS)
    values: dict[str, Any] = {}
    for suffix, prompted in ways.items():
        values[f"nll{suffix}"] = reference_nll(explainer, prompted, references, f"NLL{suffix}")
        made = generated_texts(explainer, prompted, _DECODING, f"texts{suffix}")
        texts = [each.text for each in made]
        values[f"right{suffix}"] = names_only(texts, right, pattern).tolist()
    return Scores(
        user_id=[pair.user_id for pair in pairs],
        chance=chance_level([pair.aspects or () for pair in pairs]),
        **values,
    )
