"""The data of the planted benchmark: the sample's town, divided into seen and unseen users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from xrec.adapter.pairs import Pair, PairPrompts
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.data import SampleSource
from xrec.config.prompt import PromptConfig
from xrec.data.dataset import Dataset, HeldOutPair, held_out_pairs, read_dataset
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.sample import ASPECTS, generate_town
from xrec.sample.texts import taste_sentence
from xrec.storage import open_location

UNSEEN_PAIRS, UNSEEN_USERS = "unseen pairs", "unseen users"


@dataclass(frozen=True)
class Division:
    """The explained pairs of one seed.

    No pair of an unseen user is in `train` or `validation`; all users are in the graph. `scored`
    are held-out pairs, which are no edges of the graph: those of seen users are from the test
    split, those of unseen users from validation and test.
    """

    train: pa.Table
    validation: pa.Table
    scored: dict[str, list[HeldOutPair]]


@dataclass(frozen=True)
class Town:
    """The sample's dataset, graph and language model (a folder) of one workspace."""

    dataset: Dataset
    graph: GraphEmbeddings
    llm: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer."""
        return load_tokenizer(self.llm)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of what results depend on."""
        manifests = {"dataset": self.dataset.manifest, "graph": self.graph.manifest}
        return {
            **{name: manifest.fingerprint for name, manifest in manifests.items()},
            "base_model": model_fingerprint(self.llm),
        }

    @cached_property
    def favourites(self) -> list[str]:
        """The aspect that each user likes best, by user index."""
        town = generate_town(SampleSource.model_validate(self.dataset.manifest.config["source"]))
        user_ids = self.dataset.users["user_id"].to_pylist()
        residents = [int(user_id.removeprefix("resident-")) - 1 for user_id in user_ids]
        return [ASPECTS[aspect] for aspect in town.taste[residents].argmax(axis=1)]

    def prompts(self, prompt: PromptConfig, num_tokens: int) -> PairPrompts:
        """Return prompts with collaborative tokens, `num_tokens` for a user and for an item."""
        return PairPrompts(self.dataset, self._builder(prompt, num_tokens))

    def stated_prompts(self, prompt: PromptConfig) -> "StatedTaste":
        """Prompts of text, whose profile states the user's favourite."""
        return StatedTaste(self.dataset, self._builder(prompt, 1), self.favourites)

    def _builder(self, prompt: PromptConfig, num_tokens: int) -> PromptBuilder:
        num_text_tokens = read_text_config(self.llm).vocab_size
        return PromptBuilder(
            self.tokenizer,
            prompt,
            Vocabulary(num_text_tokens, self.dataset.num_users, self.dataset.num_items, num_tokens),
        )

    def divide(self, *, seed: int, unseen_share: float, max_scored: int) -> Division:
        """Draw the unseen users by `seed`, and at most `max_scored` scored pairs of each kind."""
        rng = np.random.default_rng(seed)
        unseen = set(
            rng.permutation(self.dataset.num_users)[
                : round(unseen_share * self.dataset.num_users)
            ].tolist()
        )
        test, validation = (held_out_pairs(self.dataset, split) for split in ("test", "validation"))
        scored = {
            UNSEEN_PAIRS: [pair for pair in test if pair.user_index not in unseen],
            UNSEEN_USERS: [pair for pair in [*test, *validation] if pair.user_index in unseen],
        }
        return Division(
            train=_of_others(self.dataset.explained_pairs("train"), unseen),
            validation=_of_others(self.dataset.explained_pairs("validation"), unseen),
            scored={kind: _draw(pairs, max_scored, rng) for kind, pairs in scored.items()},
        )


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


def read_town(config: TrainAdapterConfig) -> Town:
    """Read the artifacts of `config`; raises DataError unless the dataset is a generated sample."""
    dataset = read_dataset(open_location(config.artifact("dataset"), config.storage))
    graph = read_graph(open_location(config.artifact("graph"), config.storage))
    check_graph_of_dataset(
        graph.manifest, dataset.manifest, config.artifact("graph"), config.artifact("dataset")
    )
    if dataset.planted is None:
        raise DataError(
            f"{config.artifact('dataset')}: nothing is planted in it; give a dataset made with "
            "source.kind=sample"
        )
    return Town(
        dataset, graph, resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    )


def _of_others(pairs: pa.Table, users: set[int]) -> pa.Table:
    return pairs.filter(
        pc.invert(pc.is_in(pairs["user_index"], pa.array(sorted(users), pa.int32())))
    )


def _draw(pairs: list[HeldOutPair], most: int, rng: np.random.Generator) -> list[HeldOutPair]:
    return [pairs[index] for index in sorted(rng.permutation(len(pairs))[:most])]
