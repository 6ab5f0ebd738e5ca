"""Prompts and examples of a dataset's pairs, as token ids."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xrec.aspects import Choices, chooser_for
from xrec.checks import AspectNames
from xrec.data import AspectEvidence, Dataset, Menus, Opinions
from xrec.data.language import TitleIndex, composed
from xrec.errors import DataError
from xrec.llm.loss import Example
from xrec.llm.prompt import PairTexts, PromptBuilder, PromptTooLongError
from xrec.llm.title_placeholder import TITLE


@dataclass(frozen=True)
class Pair:
    """A user and an item by index.

    The prompt carries the vector of user `vector_user_index` and the aspects that are chosen for
    user `aspects_user_index`; those that are None are the user's own. -1 as the latter stands for a
    user of whom nothing is known.
    """

    user_index: int
    item_index: int
    vector_user_index: int | None = None
    aspects_user_index: int | None = None

    @property
    def reader_index(self) -> int:
        """The user that aspects are chosen for."""
        return self.user_index if self.aspects_user_index is None else self.aspects_user_index


class PairPrompts:
    """Builds prompts and examples for the pairs of one dataset.

    With `has_training_vectors`, the builder's vocabulary has a user and an item for each explained
    training pair behind those of the dataset: their vectors have not seen the pair. Raises
    DataError if an item's title holds the place-holder that stands for titles, and what
    `chooser_for` raises.
    """

    def __init__(
        self,
        dataset: Dataset,
        builder: PromptBuilder,
        *,
        has_training_vectors: bool = False,
    ):
        self.builder = builder
        self._dataset, self._has_training_vectors = dataset, has_training_vectors
        self._chooser = chooser_for(builder.prompt, dataset)
        self._menus = Menus(dataset)
        self._opinions = Opinions(dataset)
        _check_free_of_placeholder(dataset.items, "item_id", "title")
        self._titles = dataset.items["title"]

    def texts(self, pair: Pair) -> PairTexts:
        """What may be said of a pair; of many pairs, `texts_of` is faster."""
        return self.texts_of([pair])[0]

    def texts_of(self, pairs: Sequence[Pair], *, leave_out_own: bool = False) -> list[PairTexts]:
        """What may be said of each pair.

        With `leave_out_own`, it is as if the review of the pair, if it is one of the training
        reviews, had not been written: profiles (as far as the dataset has such ones), the choice of
        aspects, and their evidence.
        """
        chosen: Sequence[tuple[AspectEvidence, ...]] = [()] * len(pairs)
        if self._chooser is not None and pairs:
            count = self.builder.prompt.aspects
            choices = self._chooser.choose(*_indices(pairs), count, leave_out_own=leave_out_own)
            chosen = self._evidence(pairs, choices, leave_out_own=leave_out_own)
        return self._with_aspects(pairs, chosen, leave_out_own=leave_out_own)

    def _learned_texts(
        self, pairs: Sequence[Pair], explanations: Sequence[str], *, leave_out_own: bool
    ) -> list[PairTexts]:
        """What the prompts of training say: the aspects are those that the explanation names.

        All of them, in its order, whether other reviews of the item name them or not: so the model
        learns to write what it is asked to say, and nothing beside it.
        """
        if self._chooser is None or not pairs:
            return self.texts_of(pairs, leave_out_own=leave_out_own)
        titles = (self._titles[pair.item_index].as_py() for pair in pairs)
        named = list(map(self._named_in, explanations, titles))
        aspects = np.full((len(pairs), max(1, *map(len, named))), -1, dtype=np.int64)
        for row, found in zip(aspects, named, strict=True):
            row[: len(found)] = found
        users, items = _indices(pairs)
        choices = self._chooser.counted(users, items, aspects, leave_out_own=leave_out_own)
        evidence = self._evidence(pairs, choices.with_own, leave_out_own=leave_out_own)
        return self._with_aspects(pairs, evidence, leave_out_own=leave_out_own)

    def _named_in(self, explanation: str, title: str) -> list[int]:
        """The aspects that an explanation names outside the item's title, in its order."""
        text = composed(explanation)
        own = self.titles.own_spans(text, title)
        found = (each.name for each in self._names.find(text) if not each.is_within(own))
        return [self._index_of[name] for name in dict.fromkeys(found)]

    def _with_aspects(
        self,
        pairs: Sequence[Pair],
        chosen: Sequence[tuple[AspectEvidence, ...]],
        *,
        leave_out_own: bool,
    ) -> list[PairTexts]:
        profiles = (
            self._dataset.profiles_of(pair.user_index, pair.item_index, leave_out_own=leave_out_own)
            for pair in pairs
        )
        return [
            PairTexts(
                user_profile=of_user,
                item_title=self._titles[pair.item_index].as_py(),
                item_profile=of_item,
                aspects=aspects,
                menu=self._menus.of(pair.item_index),
            )
            for pair, (of_user, of_item), aspects in zip(pairs, profiles, chosen, strict=True)
        ]

    def _evidence(
        self, pairs: Sequence[Pair], choices: Choices, *, leave_out_own: bool
    ) -> list[tuple[AspectEvidence, ...]]:
        def opinion(place: int, aspect: int) -> str:
            pair = pairs[place]
            own = pair.reader_index if leave_out_own else None
            return self._opinions.of(pair.item_index, aspect, own)

        return choices.evidence(self._menus.names, opinion)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._menus.names)}

    @cached_property
    def _names(self) -> AspectNames:
        return AspectNames(self._menus.names)

    @cached_property
    def titles(self) -> TitleIndex:
        """The titles of all items, to look for in texts."""
        return TitleIndex.of_column(self._titles)

    def prompt(self, pair: Pair, texts: PairTexts | None = None) -> list[int]:
        """The token ids of a pair's prompt; `texts` are `self.texts(pair)`, if they are there.

        Raises PromptTooLongError.
        """
        user_index = pair.user_index if pair.vector_user_index is None else pair.vector_user_index
        return self.builder.build(user_index, pair.item_index, texts or self.texts(pair))

    def _training_prompt(self, pair: Pair, texts: PairTexts) -> list[int]:
        """The prompt with vectors that have not seen the pair, as far as there are such ones."""
        user, item = pair.user_index, pair.item_index
        row = self._dataset.training_row(user, item)
        if row is not None and self._has_training_vectors:
            user, item = self._dataset.num_users + row, self._dataset.num_items + row
        return self.builder.build(user, item, texts)

    def example(self, pair: Pair, explanation: str, texts: PairTexts | None = None) -> Example:
        """Prompt and reference of a pair, for scoring; raises PromptTooLongError."""
        texts = texts or self.texts(pair)
        return Example(self.prompt(pair, texts), self.label_ids(explanation, texts.item_title))

    def label_ids(self, explanation: str, title: str) -> list[int]:
        """What the model is to write for `explanation`: the item's `title` is a place-holder."""
        text = composed(explanation)
        hidden = self.builder.placeholder.hide(text, self.titles.own_spans(text, title))
        return self.builder.encode_explanation(hidden)

    def examples(
        self, explanations: pa.Table, max_explanation_tokens: int, *, leave_out_own: bool = True
    ) -> tuple[list[Example], Counter[str]]:
        """Examples of a table of explanations (schema EXPLANATIONS), for training.

        The prompts have those aspects that the explanation names. With `leave_out_own` nothing in
        them was made from the pair's own training review. The second value is how many explanations
        were left out, by reason.
        Raises DataError if an explanation holds the place-holder that stands for titles.
        """
        _check_free_of_placeholder(explanations, "item_index", "explanation")
        examples: list[Example] = []
        left_out: Counter[str] = Counter()
        rows = explanations.select(["user_index", "item_index", "explanation"]).to_pylist()
        pairs = [Pair(row["user_index"], row["item_index"]) for row in rows]
        learned = [row["explanation"] for row in rows]
        said = self._learned_texts(pairs, learned, leave_out_own=leave_out_own)
        prompt = self._training_prompt if leave_out_own else self.prompt
        for row, pair, texts in zip(rows, pairs, said, strict=True):
            try:
                labels = self.label_ids(row["explanation"], texts.item_title)
                example = Example(prompt(pair, texts), labels)
            except PromptTooLongError:
                left_out["prompt_too_long"] += 1
                continue
            if len(example.label_ids) > max_explanation_tokens:
                left_out["explanation_too_long"] += 1
            else:
                examples.append(example.packed())
        return examples, left_out


def _indices(pairs: Sequence[Pair]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs' readers and items."""
    return (
        np.array([pair.reader_index for pair in pairs], dtype=np.int64),
        np.array([pair.item_index for pair in pairs], dtype=np.int64),
    )


def _check_free_of_placeholder(table: pa.Table, id_column: str, text_column: str) -> None:
    """Raise DataError if a text holds the place-holder: it could not be told from the model's."""
    holds = pc.match_substring(table[text_column], TITLE, ignore_case=True)
    found = table.filter(holds).slice(0, 1).to_pylist()
    if found:
        raise DataError(
            f"{text_column} {found[0][text_column]!r} ({id_column} {found[0][id_column]}) holds "
            f"{TITLE!r}, which stands for titles; write it in another way in the dataset's source",
            code="placeholder_in_text",
            key=text_column,
            saw=TITLE,
        )
