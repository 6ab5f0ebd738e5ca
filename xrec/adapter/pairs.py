"""Prompts and examples of a dataset's pairs: the texts looked up, the ids built."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from xrec.data.dataset import Dataset
from xrec.llm.examples import Example
from xrec.llm.prompt import PairTexts, PromptBuilder, PromptTooLongError


@dataclass(frozen=True)
class Pair:
    """A user and an item by index; `vector_user_index` is whose vector the prompt carries (None: the user's own)."""

    user_index: int
    item_index: int
    vector_user_index: int | None = None


class PairPrompts:
    """Builds prompts for the pairs of one dataset."""

    def __init__(self, dataset: Dataset, builder: PromptBuilder):
        self.builder = builder
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

    def prompt(self, pair: Pair) -> list[int]:
        """The token ids of a pair's prompt; raises PromptTooLongError."""
        user_index = pair.user_index if pair.vector_user_index is None else pair.vector_user_index
        return self.builder.build(user_index, pair.item_index, self.texts(pair))

    def example(self, pair: Pair, explanation: str) -> Example:
        """Prompt and reference of a pair, for training and scoring; raises PromptTooLongError."""
        return Example(self.prompt(pair), self.builder.encode_explanation(explanation))

    def examples(
        self, explanations: pa.Table, max_explanation_tokens: int
    ) -> tuple[list[Example], Counter[str]]:
        """Examples of a table of explanations (schema EXPLANATIONS), and how many were left out, by reason."""
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
