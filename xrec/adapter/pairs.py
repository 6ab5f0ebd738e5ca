"""Prompts and examples of a dataset's pairs, as token IDs."""

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
from xrec.data import AspectEvidence, Dataset, Menus, Opinions, taken
from xrec.data.language import TitleIndex, composed
from xrec.errors import DataError
from xrec.llm.loss import Example
from xrec.llm.prompt import PairTexts, PromptBuilder, PromptTooLongError
from xrec.llm.title_placeholder import TITLE


@dataclass(frozen=True)
class Pair:
    """A user and an item by index.

    The prompt has the vector of user `vector_user_index` and the aspects chosen for user
    `aspects_user_index`, both by default the user's own. -1 as the latter is an unknown user.
    """

    user_index: int
    item_index: int
    vector_user_index: int | None = None
    aspects_user_index: int | None = None

    @property
    def reader_index(self) -> int:
        """The user for whom aspects are chosen."""
        return self.user_index if self.aspects_user_index is None else self.aspects_user_index


class PairPrompts:
    """Builds prompts and examples for the pairs of one dataset.

    With `has_training_vectors`, the vocabulary has another user and item for each explained
    training pair, after those of the dataset; their vectors have not seen the pair. Raises
    DataError if an item's title contains the placeholder, and the errors of `chooser_for`.
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
        """Return what may be said about a pair; for many pairs, `texts_of` is faster."""
        return self.texts_of([pair])[0]

    def texts_of(self, pairs: Sequence[Pair], *, leave_out_own: bool = False) -> list[PairTexts]:
        """Return what may be said about each pair.

        With `leave_out_own`, profiles (if the dataset has such versions), the chosen aspects, and
        their evidence are made without the pair's own training review.
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
        """Return the texts of training prompts, whose aspects are those the explanation names.

        They are all listed, in its order, even if no other review of the item names them, so that
        the model learns to write what it is asked to and nothing else.
        """
        if self._chooser is None or not pairs:
            return self.texts_of(pairs, leave_out_own=leave_out_own)
        titles = (self._titles[pair.item_index].as_py() for pair in pairs)
        named = list(map(self._named_in, explanations, titles))
        aspects = np.full((len(pairs), max(1, *map(len, named))), -1, dtype=np.int64)
        for row, indices in zip(aspects, named, strict=True):
            row[: len(indices)] = indices
        users, items = _indices(pairs)
        choices = self._chooser.counted(users, items, aspects, leave_out_own=leave_out_own)
        evidence = self._evidence(pairs, choices.with_own, leave_out_own=leave_out_own)
        return self._with_aspects(pairs, evidence, leave_out_own=leave_out_own)

    def _named_in(self, explanation: str, title: str) -> list[int]:
        """Return the aspects that an explanation names outside the item's title, in its order."""
        text = composed(explanation)
        own = self.titles.own_spans(text, title)
        names = (each.name for each in self._names.find(text) if not each.is_within(own))
        return [self._index_of[name] for name in dict.fromkeys(names)]

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
        user_ids = taken(self._dataset.users["user_id"], [pair.user_index for pair in pairs])
        return [
            PairTexts(
                user_profile=of_user,
                item_title=self._titles[pair.item_index].as_py(),
                item_profile=of_item,
                aspects=aspects,
                menu=self._menus.of(pair.item_index),
                user_id=user_id,
                complaints=self._menus.complaints(pair.user_index),
            )
            for pair, user_id, (of_user, of_item), aspects in zip(
                pairs, user_ids, profiles, chosen, strict=True
            )
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
        """The titles of all items, to find in texts."""
        return TitleIndex.of_column(self._titles)

    def prompt(self, pair: Pair, texts: PairTexts | None = None) -> list[int]:
        """Return the token IDs of a pair's prompt; `texts` are by default `self.texts(pair)`.

        Raises PromptTooLongError.
        """
        user_index = pair.user_index if pair.vector_user_index is None else pair.vector_user_index
        return self.builder.build(user_index, pair.item_index, texts or self.texts(pair))

    def _training_prompt(self, pair: Pair, texts: PairTexts) -> list[int]:
        """Return the prompt with vectors that have not seen the pair, if there are any."""
        user, item = pair.user_index, pair.item_index
        row = self._dataset.training_row(user, item)
        if row is not None and self._has_training_vectors:
            user, item = self._dataset.num_users + row, self._dataset.num_items + row
        return self.builder.build(user, item, texts)

    def example(self, pair: Pair, explanation: str, texts: PairTexts | None = None) -> Example:
        """Return the prompt and reference of a pair, for scoring; raises PromptTooLongError."""
        texts = texts or self.texts(pair)
        return Example(self.prompt(pair, texts), self.label_ids(explanation, texts.item_title))

    def label_ids(self, explanation: str, title: str) -> list[int]:
        """Return what the model should write for `explanation`, with a placeholder for `title`."""
        text = composed(explanation)
        hidden = self.builder.placeholder.hide(text, self.titles.own_spans(text, title))
        return self.builder.encode_explanation(hidden)

    def examples(
        self, explanations: pa.Table, max_explanation_tokens: int, *, leave_out_own: bool = True
    ) -> tuple[list[Example], Counter[str]]:
        """Return training examples of a table of explanations (schema EXPLANATIONS).

        The prompts list the aspects that the explanation names. With `leave_out_own`, nothing else
        in them was made from the pair's own training review. The second value counts the left-out
        explanations by reason. Raises DataError if an explanation contains the placeholder.
        """
        _check_free_of_placeholder(explanations, "item_index", "explanation")
        examples: list[Example] = []
        left_out: Counter[str] = Counter()
        rows = explanations.select(["user_index", "item_index", "explanation"]).to_pylist()
        pairs = [Pair(row["user_index"], row["item_index"]) for row in rows]
        explained = [row["explanation"] for row in rows]
        texts_of_pairs = self._learned_texts(pairs, explained, leave_out_own=leave_out_own)
        prompt = self._training_prompt if leave_out_own else self.prompt
        for row, pair, texts in zip(rows, pairs, texts_of_pairs, strict=True):
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
    """Return the pairs' readers and items."""
    return (
        np.array([pair.reader_index for pair in pairs], dtype=np.int64),
        np.array([pair.item_index for pair in pairs], dtype=np.int64),
    )


def _check_free_of_placeholder(table: pa.Table, id_column: str, text_column: str) -> None:
    """Raise DataError if a text contains the placeholder, which only the model may write."""
    contains = pc.match_substring(table[text_column], TITLE, ignore_case=True)
    wrong = table.filter(contains).slice(0, 1).to_pylist()
    if wrong:
        raise DataError(
            f"{text_column} {wrong[0][text_column]!r} ({id_column} {wrong[0][id_column]}) contains "
            f"{TITLE!r}, the placeholder for titles; reword it in the dataset's source",
            code="placeholder_in_text",
            key=text_column,
            saw=TITLE,
        )
