"""The sample's town for the planted benchmark: unseen users, variants and who writes their texts.

Adapters are trained by `xrec train-adapter`'s own recipe. The only change is that the pairs of
unseen users are left out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks.report import explaining
from xrec.adapter.pairs import Pair, PairPrompts
from xrec.config import EngineConfig, SampleSource, Split, TrainAdapterConfig
from xrec.data import Dataset, HeldOutPair, held_out_pairs, read_dataset
from xrec.errors import DataError
from xrec.generate.builtin.engine import load_engine
from xrec.generate.explainer import Explainer, checker_of
from xrec.graph.artifact import read_graph
from xrec.llm.model import load_llm, load_tokenizer, stop_token_ids
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.source import resolve_model
from xrec.sample import ASPECTS, generate_town
from xrec.sample.texts import taste_sentence
from xrec.storage import location_of
from xrec.text.writers import builder_from_words, load_explainer
from xrec.train.adapter import train_adapter
from xrec.train.example_shards import explained_pairs

UNSEEN_PAIRS, UNSEEN_USERS = "unseen pairs", "unseen users"
CONSTANT, STATED = "constant", "text-favourite"
VARIANTS: dict[str, dict[str, str]] = {
    **{name: {"vectors": "graph", "injection": name} for name in ("projected", "direct", "none")},
    "random": {"vectors": "random"},
    CONSTANT: {"vectors": "constant"},
    STATED: {},  # without an adapter
}
_UNSEEN_SHARE = 0.2


def configured(config: TrainAdapterConfig, variant: str, seed: int) -> TrainAdapterConfig:
    """`config` as `variant` and `seed` change it."""
    model = config.model.model_copy(update=VARIANTS[variant])
    training = config.training.model_copy(update={"seed": seed})
    return config.model_copy(update={"model": model, "training": training})


@dataclass(frozen=True)
class Town:
    """The sample's dataset in the workspace of `config`."""

    config: TrainAdapterConfig
    dataset: Dataset

    @classmethod
    def read(cls, config: TrainAdapterConfig) -> "Town":
        """Read the dataset; raises DataError unless it is a generated sample."""
        dataset = read_dataset(location_of(config, "dataset"))
        if dataset.planted is None:
            raise DataError(
                f"{config.artifact('dataset')}: nothing is planted in it; give a dataset made with "
                "source.kind=sample",
                code="nothing_planted",
                key="dataset",
            )
        return cls(config, dataset)

    def unseen(self, seed: int) -> frozenset[int]:
        """A fifth of the users, drawn by `seed`: training sees none of their explanations."""
        order = np.random.default_rng(seed).permutation(self.dataset.num_users)
        return frozenset(order[: round(_UNSEEN_SHARE * len(order))].tolist())

    def scored(self, seed: int, most: int) -> dict[str, list[HeldOutPair]]:
        """At most so many pairs of each kind, drawn by `seed`; none is an edge of the graph.

        Those of seen users are from the test split, those of unseen users from validation too.
        """
        unseen, rng = self.unseen(seed), np.random.default_rng([seed, 1])
        test, validation = (held_out_pairs(self.dataset, split) for split in ("test", "validation"))
        kinds = {
            UNSEEN_PAIRS: [pair for pair in test if pair.user_index not in unseen],
            UNSEEN_USERS: [pair for pair in [*test, *validation] if pair.user_index in unseen],
        }
        return {
            kind: [pairs[place] for place in sorted(rng.permutation(len(pairs))[:most])]
            for kind, pairs in kinds.items()
        }

    @cached_property
    def favourites(self) -> list[str]:
        """The aspect that each user likes best, by user index."""
        town = generate_town(SampleSource.model_validate(self.dataset.manifest.config["source"]))
        user_ids = self.dataset.users["user_id"].to_pylist()
        residents = [int(user_id.removeprefix("resident-")) - 1 for user_id in user_ids]
        return [ASPECTS[aspect] for aspect in town.taste[residents].argmax(axis=1)]

    def explainer(self, variant: str, seed: int, adapter: str) -> Explainer:
        """What writes the texts of a variant; its adapter is trained if it is not at `adapter`.

        Raises what `train_adapter` raises. Ray is initialised.
        """
        if variant == STATED:
            return self._stated()
        config = configured(self.config, variant, seed).with_artifacts({"adapter": adapter})
        seen = partial(seen_pairs, unseen=self.unseen(seed))
        with mock.patch("xrec.train.example_shards.explained_pairs", seen):
            train_adapter(config)
        return load_explainer(
            explaining(config.workspace, config.llm, EngineConfig(), adapter), "cpu"
        )

    def _stated(self) -> Explainer:
        """The language model without an adapter, which is told of the favourite in words."""
        config = self.config
        folder = resolve_model(config.llm, config.storage)
        model = load_llm(config.llm, folder, torch.device("cpu"))
        tokenizer = load_tokenizer(folder)
        builder = builder_from_words(self.dataset, tokenizer, config.prompt)
        prompts = StatedTaste(self.dataset, builder, self.favourites)
        engine = load_engine(model, stop_token_ids(model, tokenizer), EngineConfig())
        graph = read_graph(location_of(config, "graph"))
        checker = checker_of(self.dataset)
        return Explainer(model, engine, prompts, self.dataset, graph, STATED, checker)


class StatedTaste(PairPrompts):
    """Prompts of text alone, whose profile begins with the user's favourite.

    The texts that the language model was trained on state it in the same way.
    """

    def __init__(self, dataset: Dataset, builder: PromptBuilder, favourites: Sequence[str]):
        super().__init__(dataset, builder)
        self._favourites = favourites

    def prompt(self, pair: Pair, texts: PairTexts | None = None) -> list[int]:
        """The prompt with the taste of the user whose vector the pair would have."""
        user = pair.user_index if pair.vector_user_index is None else pair.vector_user_index
        sentence = taste_sentence([self._favourites[user]], Random(f"taste {user}"))
        said = texts or self.texts(pair)
        return self.builder.build_without_tokens(
            replace(said, user_profile=f"{sentence} {said.user_profile}")
        )


def seen_pairs(
    config: TrainAdapterConfig, dataset: Dataset, split: Split, *, unseen: Collection[int]
) -> pa.Table:
    """The explained pairs that training reads, without those of unseen users."""
    pairs = explained_pairs(config, dataset, split)
    users = pairs["user_index"]
    return pairs.filter(pc.invert(pc.is_in(users, pa.array(sorted(unseen), users.type))))
