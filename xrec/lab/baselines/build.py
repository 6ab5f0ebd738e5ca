"""A baseline's model with its first weights."""

from dataclasses import dataclass

import torch

from xrec.config.baselines import Att2SeqConfig, LoRAConfig, NRTConfig, PETERConfig
from xrec.lab.baselines.aspects import NUM_ASPECT_WORDS
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.data import BaselineData
from xrec.lab.baselines.language_model import load_language_model
from xrec.lab.baselines.models.att2seq import Att2Seq
from xrec.lab.baselines.models.lora import LoRA
from xrec.lab.baselines.models.model import Ratings, TrainedModel
from xrec.lab.baselines.models.nrt import NRT
from xrec.lab.baselines.models.pepler import PEPLER
from xrec.lab.baselines.models.peter import PETER
from xrec.lab.baselines.words import BEGIN
from xrec.llm.model import resolve_dtype

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sizes:
    """How many users, items and tokens a model knows.

    `ratings` is the scale of the ratings, None if none is known.
    """

    num_users: int
    num_items: int
    num_tokens: int
    ratings: Ratings | None = None

    @classmethod
    def of(cls, data: BaselineData) -> "Sizes":
        """Those of the data."""
        return cls(data.num_users, data.num_items, data.num_tokens, data.ratings)


def build_model(baseline: Baseline, sizes: Sizes, device: torch.device = _CPU) -> TrainedModel:
    """A model with weights that are drawn with the baseline's seed, on the CPU.

    `device` is where it will compute. Raises ModelError if its language model cannot be had.
    """
    torch.manual_seed(baseline.seed)
    recipe = baseline.recipe
    if isinstance(recipe, LoRAConfig):
        dtype = resolve_dtype(baseline.language_model.dtype, device)
        return LoRA(recipe, load_language_model(baseline, device, dtype))
    counts = {"num_users": sizes.num_users, "num_items": sizes.num_items}
    words = {"num_tokens": sizes.num_tokens, "begin_id": BEGIN}
    if isinstance(recipe, Att2SeqConfig):
        return Att2Seq(recipe, **counts, **words)
    if isinstance(recipe, NRTConfig):
        return NRT(recipe, **counts, **words, ratings=sizes.ratings)
    if isinstance(recipe, PETERConfig):
        num_aspect_words = NUM_ASPECT_WORDS if baseline.kind == "peter_plus" else 0
        aspects = {"num_aspect_words": num_aspect_words}
        return PETER(recipe, **counts, **words, **aspects, ratings=sizes.ratings)
    return PEPLER(load_language_model(baseline, device, torch.float32), **counts)
