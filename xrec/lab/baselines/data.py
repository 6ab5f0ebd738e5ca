"""What baselines are trained on: explained pairs as examples, and batches of examples.

The vocabulary and the maximum length come from the drawn training explanations only.
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
from xrec.lab.baselines.codec import Codec, LanguageModelTokens, Words
from xrec.lab.baselines.lora import prompt_examples
from xrec.lab.baselines.writer import TextBatch
from xrec.llm.loss import IGNORE
from xrec.llm.loss import collate as collate_rows
from xrec.llm.model import load_tokenizer

MAX_VOCABULARY = 20_000
"""Number of words that a model knows, the most frequent ones; others are read as unknown."""
_SHARE_THAT_FITS = 0.99


@dataclass(frozen=True)
class TextExample:
    """An explained pair: its indices, and its text's tokens with an end token unless it was cut."""

    user_index: int
    item_index: int
    token_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.token_ids)


def collate(examples: Sequence[TextExample]) -> TextBatch:
    """Return one or more examples as a batch."""
    texts = [torch.tensor(example.token_ids, dtype=torch.int64) for example in examples]
    return TextBatch(
        torch.tensor([example.user_index for example in examples], dtype=torch.int64),
        torch.tensor([example.item_index for example in examples], dtype=torch.int64),
        torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=IGNORE),
    )


@dataclass(frozen=True)
class BaselineData:
    """The examples of a training.

    sizes: num_users, num_items, and num_tokens, 0 if the model has a language model's vocabulary.
    codec: None for lora, whose prompts and texts are those of our method. max_words: the maximum
    length of a text in tokens, without its end token. collate: makes a batch of some examples.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    sizes: Mapping[str, int]
    codec: Codec | None
    max_words: int
    collate: Callable[[Sequence[Any]], Any] = collate


def build_data(baseline: Baseline, dataset: Dataset) -> BaselineData:
    """Return the examples of the drawn pairs.

    Raises DataError if there are no training or no validation pairs.
    """
    max_pairs = baseline.config.training.max_pairs
    train = drawn_explanations(dataset, dataset.explained_pairs("train"), max_pairs)
    validation = drawn_explanations(
        dataset, dataset.explained_pairs("validation"), baseline.recipe.max_validation_pairs
    )
    if not train.num_rows or not validation.num_rows:
        raise DataError(
            f"{train.num_rows} training and {validation.num_rows} validation pairs have an "
            "explanation; a baseline needs at least one of each: prepare a dataset with "
            "explanations and a share for validation (splits.validation)",
            code="no_explained_pairs",
            key="splits.validation",
            saw=(train.num_rows, validation.num_rows),
        )
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "num_tokens": 0}
    if baseline.kind == "lora":
        prompts = [prompt_examples(baseline, dataset, table) for table in (train, validation)]
        return BaselineData(prompts[0], prompts[1], sizes, None, 0, collate=collate_rows)
    texts = train["explanation"].to_pylist()
    codec: Codec
    if baseline.kind == "pepler":
        codec = LanguageModelTokens(load_tokenizer(baseline.llm_folder()))
    else:
        codec = Words.of(texts, MAX_VOCABULARY)
        sizes["num_tokens"] = len(codec.pieces)
    max_words = length_that_fits([len(codec.encode(text)) for text in texts])

    def example(user: int, item: int, text: str) -> TextExample:
        tokens = codec.encode(text)
        end = (codec.end,) if len(tokens) <= max_words else ()
        return TextExample(user, item, (*tokens[:max_words], *end))

    def examples(table: pa.Table) -> list[TextExample]:
        columns = (table[name].to_pylist() for name in ("user_index", "item_index", "explanation"))
        return list(map(example, *columns))

    return BaselineData(examples(train), examples(validation), sizes, codec, max_words)


def length_that_fits(lengths: Sequence[int]) -> int:
    """Return the smallest length that 99 % of the texts do not exceed; at least 1."""
    return max(1, int(np.quantile(lengths, _SHARE_THAT_FITS, method="inverted_cdf")))
