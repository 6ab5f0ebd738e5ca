"""What baselines are trained on: explained pairs as examples, and examples as batches of tensors.

Only training explanations, those that were drawn, give the vocabulary and the longest text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from xrec.aspects.choice import read_chooser
from xrec.data.dataset import Dataset
from xrec.data.splits import drawn_explanations
from xrec.errors import DataError
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.codec import END, PAD, Words
from xrec.lab.baselines.lora import prompt_examples
from xrec.lab.baselines.peter import Pairs, TextBatch
from xrec.llm.examples import IGNORE
from xrec.llm.examples import collate as collate_rows

MAX_VOCABULARY = 20_000
"""How many words a model knows, the most frequent ones; others are read as unknown."""
_SHARE_THAT_FITS = 0.99
Choose = Callable[[Sequence[int], Sequence[int]], list[str]]
"""The aspect that is chosen for each pair, "" for none; by the indices of users and items."""


@dataclass(frozen=True)
class TextExample:
    """An explained pair: its indices, and the tokens of its text.

    The end token is the last one, unless the text was cut.
    """

    user_index: int
    item_index: int
    token_ids: tuple[int, ...]
    aspect_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)


def example(
    user: int, item: int, words: Sequence[int], max_words: int, aspect_ids: tuple[int, ...] = ()
) -> TextExample:
    """The example of a text, with its end token, or cut and without one if it is too long.

    user, item: their indices.
    """
    end = (END,) if len(words) <= max_words else ()
    return TextExample(user, item, (*words[:max_words], *end), aspect_ids)


def collate(examples: Sequence[TextExample]) -> TextBatch:
    """The examples as a batch; B is at least 1."""
    return TextBatch(
        collate_pairs(
            [each.user_index for each in examples],
            [each.item_index for each in examples],
            [each.aspect_ids for each in examples],
        ),
        _padded([each.token_ids for each in examples], IGNORE),
    )


def collate_pairs(
    users: Sequence[int], items: Sequence[int], aspects: Sequence[Sequence[int]]
) -> Pairs:
    """Pairs without texts; the aspects of all have one length."""
    return Pairs(
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(items, dtype=torch.int64),
        _padded(aspects, PAD),
    )


def _padded(rows: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    """(B, T) int64, with `padding` behind shorter rows."""
    tensors = [torch.tensor(ids, dtype=torch.int64) for ids in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


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
    train = drawn_explanations(dataset, dataset.explained_pairs("train"), baseline.max_pairs)
    validation = drawn_explanations(
        dataset, dataset.explained_pairs("validation"), baseline.recipe.max_validation_pairs
    )
    if not train.num_rows or not validation.num_rows:
        raise DataError(
            f"{train.num_rows} training and {validation.num_rows} validation pairs with an "
            "explanation; a baseline needs one of each at least: prepare a dataset that has "
            "explanations, with a share for validation (splits.validation)"
        )
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "num_tokens": 0}
    if baseline.kind == "lora":
        prompts = [prompt_examples(baseline, dataset, table) for table in (train, validation)]
        return BaselineData(prompts[0], prompts[1], sizes, None, 0, collate=collate_rows)
    choose, num_aspect_words = load_choice(baseline, dataset), baseline.num_aspect_words
    named, others = (choose(*_indices(table)) for table in (train, validation))
    texts = train["explanation"].to_pylist()
    codec = Words.of(texts, MAX_VOCABULARY, named)
    max_words = length_that_fits([len(codec.encode(text)) for text in texts])

    def examples(table: pa.Table, aspects: list[str]) -> list[TextExample]:
        ids = [aspect_ids(codec, aspect, num_aspect_words) for aspect in aspects]
        rows = zip(*_indices(table), table["explanation"].to_pylist(), ids, strict=True)
        return [
            example(user, item, codec.encode(text), max_words, read)
            for user, item, text, read in rows
        ]

    made, held_out = examples(train, named), examples(validation, others)
    return BaselineData(made, held_out, sizes | {"num_tokens": len(codec)}, codec, max_words)


def _indices(table: pa.Table) -> tuple[list[int], list[int]]:
    return table["user_index"].to_pylist(), table["item_index"].to_pylist()


def load_choice(baseline: Baseline, dataset: Dataset) -> Choose:
    """What PETER+ reads: what `xrec train-aspects` chooses, of a training pair without its review.

    Other baselines read nothing. Raises DataError if the dataset has no aspects, and what
    `read_chooser` raises.
    """
    if not baseline.num_aspect_words:
        return lambda users, items: [""] * len(users)
    if dataset.aspects is None:
        raise DataError(
            "the dataset has no aspects, which peter_plus reads; expected one that was prepared "
            "from annotations (`xrec annotate`), or with prepare.aspects_from: {kind: profiles}; "
            "peter needs none"
        )
    chooser = read_chooser(baseline.open(baseline.aspects), dataset)
    names = dataset.aspects["aspect"].to_pylist()

    def choose(users: Sequence[int], items: Sequence[int]) -> list[str]:
        pairs = (np.array(users, dtype=np.int64), np.array(items, dtype=np.int64))
        chosen = chooser.choose(*pairs, 1, leave_out_own=True).aspects[:, 0].tolist()
        return [names[aspect] if aspect >= 0 else "" for aspect in chosen]

    return choose


def aspect_ids(words: Words, aspect: str, num_words: int) -> tuple[int, ...]:
    """The first words of an aspect, `num_words` ids; PAD where there are fewer."""
    ids = words.encode_within(aspect)[:num_words]
    return (*ids, *[PAD] * (num_words - len(ids)))


def length_that_fits(lengths: Sequence[int]) -> int:
    """The least length that 99 % of the texts do not exceed, 1 at least."""
    return max(1, int(np.quantile(lengths, _SHARE_THAT_FITS, method="inverted_cdf")))
