"""What baselines are trained on: explained pairs as examples, and examples as batches of tensors.

Only training explanations, those that were drawn, give the vocabulary and the longest text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xrec.data import Dataset, drawn_explanations
from xrec.errors import DataError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.codec import END, Words
from xrec.lab.baselines.lora import prompt_examples
from xrec.lab.baselines.peter import TextBatch
from xrec.llm.loss import IGNORE
from xrec.llm.loss import collate as collate_rows

MAX_VOCABULARY = 20_000
"""How many words a model knows, the most frequent ones; others are read as unknown."""
_SHARE_THAT_FITS = 0.99


@dataclass(frozen=True)
class TextExample:
    """An explained pair: its indices, and the tokens of its text.

    The end token is the last one, unless the text was cut.
    """

    user_index: int
    item_index: int
    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


def example(user: int, item: int, words: Sequence[int], max_words: int) -> TextExample:
    """The example of a text, with its end token, or cut and without one if it is too long.

    user, item: their indices.
    """
    end = (END,) if len(words) <= max_words else ()
    return TextExample(user, item, (*words[:max_words], *end))


def collate(examples: Sequence[TextExample]) -> TextBatch:
    """The examples as a batch; B is at least 1."""
    texts = [torch.tensor(each.token_ids, dtype=torch.int64) for each in examples]
    return TextBatch(
        torch.tensor([each.user_index for each in examples], dtype=torch.int64),
        torch.tensor([each.item_index for each in examples], dtype=torch.int64),
        torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=IGNORE),
    )


@dataclass(frozen=True)
class BaselineData:
    """All that the training reads; `collate` makes a batch of some of the examples.

    sizes: num_users, num_items, and num_tokens, which is 0 of lora.
    codec: None of lora, whose prompts and texts are those of ours. `max_words` is the longest text,
    in tokens without the end.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    sizes: Mapping[str, int]
    codec: Words | None
    max_words: int
    collate: Callable[[Sequence[Any]], Any] = collate


def build_data(baseline: Baseline, dataset: Dataset) -> BaselineData:
    """The examples of the drawn pairs; raises DataError without training or validation pairs."""
    max_pairs = baseline.config.training.max_pairs
    train = drawn_explanations(dataset, dataset.explained_pairs("train"), max_pairs)
    validation = drawn_explanations(
        dataset, dataset.explained_pairs("validation"), baseline.recipe.max_validation_pairs
    )
    if not train.num_rows or not validation.num_rows:
        raise DataError(
            f"{train.num_rows} training and {validation.num_rows} validation pairs with an "
            "explanation; a baseline needs one of each at least: prepare a dataset that has "
            "explanations, with a share for validation (splits.validation)",
            code="no_explained_pairs",
            key="splits.validation",
            saw=(train.num_rows, validation.num_rows),
        )
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "num_tokens": 0}
    if baseline.kind == "lora":
        prompts = [prompt_examples(baseline, dataset, table) for table in (train, validation)]
        return BaselineData(prompts[0], prompts[1], sizes, None, 0, collate=collate_rows)
    texts = train["explanation"].to_pylist()
    codec = Words.of(texts, MAX_VOCABULARY)
    max_words = length_that_fits([len(codec.encode(text)) for text in texts])

    def examples(table: pa.Table) -> list[TextExample]:
        columns = (table[name].to_pylist() for name in ("user_index", "item_index", "explanation"))
        return [
            example(user, item, codec.encode(text), max_words)
            for user, item, text in zip(*columns, strict=True)
        ]

    sizes |= {"num_tokens": len(codec)}
    return BaselineData(examples(train), examples(validation), sizes, codec, max_words)


def length_that_fits(lengths: Sequence[int]) -> int:
    """The least length that 99 % of the texts do not exceed, 1 at least."""
    return max(1, int(np.quantile(lengths, _SHARE_THAT_FITS, method="inverted_cdf")))
