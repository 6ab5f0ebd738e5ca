"""Prompts and examples of a dataset's pairs, as token ids."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from xrec.data.dataset import Dataset
from xrec.data.titles import TitleIndex, composed
from xrec.errors import DataError
from xrec.llm.examples import Example
from xrec.llm.prompt import PairTexts, PromptBuilder, PromptTooLongError


@dataclass(frozen=True)
class Pair:
    """A user and an item by index.

    The prompt carries the vector of user `vector_user_index`; if that is None, the user's own.
    """

    user_index: int
    item_index: int
    vector_user_index: int | None = None


class PairPrompts:
    """Builds prompts and examples for the pairs of one dataset.

    Raises DataError if an item's title holds the place-holder that stands for titles.
    """

    def __init__(self, dataset: Dataset, builder: PromptBuilder):
        self.builder = builder
        _check_free_of_placeholder(builder, dataset.items, "item_id", "title")
        self._user_profiles = dataset.users["profile"].combine_chunks()
        self._titles = dataset.items["title"].combine_chunks()
        self._item_profiles = dataset.items["profile"].combine_chunks()

    def texts(self, pair: Pair) -> PairTexts:
        """What the prompt says of a pair."""
        return PairTexts(
            user_profile=self._user_profiles[pair.user_index].as_py(),
            item_title=self._titles[pair.item_index].as_py(),
            item_profile=self._item_profiles[pair.item_index].as_py(),
        )

    @cached_property
    def titles(self) -> TitleIndex:
        """The titles of all items, to look for in texts."""
        return TitleIndex(self._titles.to_pylist())

    def prompt(self, pair: Pair) -> list[int]:
        """The token ids of a pair's prompt; raises PromptTooLongError."""
        user_index = pair.user_index if pair.vector_user_index is None else pair.vector_user_index
        return self.builder.build(user_index, pair.item_index, self.texts(pair))

    def example(self, pair: Pair, explanation: str) -> Example:
        """Prompt and reference of a pair, for training and scoring; raises PromptTooLongError."""
        return Example(self.prompt(pair), self.label_ids(explanation, self.texts(pair).item_title))

    def label_ids(self, explanation: str, title: str) -> list[int]:
        """What the model is to write for `explanation`: the item's `title` is a place-holder."""
        text = composed(explanation)
        hidden = self.builder.placeholder.hide(text, self.titles.own_spans(text, title))
        return self.builder.encode_explanation(hidden)

    def examples(
        self, explanations: pa.Table, max_explanation_tokens: int
    ) -> tuple[list[Example], Counter[str]]:
        """Examples of a table of explanations (schema EXPLANATIONS).

        The second value is how many explanations were left out, by reason.
        Raises DataError if an explanation holds the place-holder that stands for titles.
        """
        _check_free_of_placeholder(self.builder, explanations, "item_index", "explanation")
        examples: list[Example] = []
        left_out: Counter[str] = Counter()
        for row in explanations.select(["user_index", "item_index", "explanation"]).to_pylist():
            try:
                example = self.example(
                    Pair(row["user_index"], row["item_index"]), row["explanation"]
                )
            except PromptTooLongError:
                left_out["prompt_too_long"] += 1
                continue
            if len(example.label_ids) > max_explanation_tokens:
                left_out["explanation_too_long"] += 1
            else:
                examples.append(example)
        return examples, left_out


def _check_free_of_placeholder(
    builder: PromptBuilder, table: pa.Table, id_column: str, text_column: str
) -> None:
    """Raise DataError if a text holds the place-holder: it could not be told from the model's."""
    placeholder = builder.placeholder.text
    holds = pc.match_substring(table[text_column], placeholder, ignore_case=True)
    found = table.filter(holds).slice(0, 1).to_pylist()
    if found:
        raise DataError(
            f"{text_column} {found[0][text_column]!r} ({id_column} {found[0][id_column]}) holds "
            f"{placeholder!r}, which stands for titles; choose another prompt.title_placeholder"
        )
