"""Explain one pair, in this process: what `xrec explain` prints."""

import logging
from dataclasses import dataclass

from xrec.adapter.pairs import Pair
from xrec.backfill.identity import sources_of
from xrec.checks import check_word_list
from xrec.config.backfill import BackfillConfig
from xrec.config.llm import EngineConfig
from xrec.generate.explainer import Explanation
from xrec.generate.loading import load_explainer
from xrec.llm.prompt import PairTexts
from xrec.storage import check_artifacts

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class ExplainedPair:
    """One pair with what the model was given."""

    user_id: str
    item_id: str
    texts: PairTexts
    prompt: str
    explanation: Explanation
    model_fingerprint: str


def run(config: BackfillConfig, user_id: str, item_id: str) -> ExplainedPair:
    """Explain the pair.

    Raises UnknownIdError for an id that neither the dataset nor `config.cold_start` knows, and what
    `load_explainer` raises.
    """
    check_artifacts(config, "dataset", "graph", "adapter")
    check_word_list(config.decoding.text.checks, config.storage)
    explainer = load_explainer(
        sources_of(config), device=config.actors.device, engine=_engine(config)
    )
    dataset = explainer.dataset
    pair = Pair(dataset.user_index(user_id), dataset.item_index(item_id))
    prompt = explainer.pairs.prompt(pair)
    texts = explainer.pairs.texts(pair)
    (explanation,) = explainer.explain([prompt], [texts], config.decoding)
    return ExplainedPair(
        user_id=user_id,
        item_id=item_id,
        texts=texts,
        prompt=explainer.pairs.builder.show(prompt),
        explanation=explanation,
        model_fingerprint=explainer.model_fingerprint,
    )


def _engine(config: BackfillConfig) -> EngineConfig:
    """The backfill's engine; but auto is builtin, because vLLM starts longer than one text takes.

    A model that several GPUs share is left to vLLM.
    """
    if config.engine.kind == "auto" and config.engine.tensor_parallel_size == 1:
        return config.engine.model_copy(update={"kind": "builtin"})
    return config.engine
