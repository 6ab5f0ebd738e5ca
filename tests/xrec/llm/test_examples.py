"""Batches and their NLL, against transformers' own loss on one unpadded row at a time."""

import math
import random

import pytest
import torch

from tests.toy import attach_toy, toy_model
from xrec.llm.examples import IGNORE, Example, collate, explanation_nll, token_nll

V = 64


def make_examples(count: int = 7) -> list[Example]:
    rng = random.Random(0)
    return [
        Example(
            [V + row % 5, *(rng.randrange(V) for _ in range(rng.randint(1, 9)))],
            [rng.randrange(V) for _ in range(rng.randint(1, 6))],
        )
        for row in range(count)
    ]


@torch.no_grad()
def nll_by_transformers(model: torch.nn.Module, example: Example) -> float:
    """Mean NLL of the labels, by the model's own loss."""
    ids = torch.tensor([[*example.prompt_ids, *example.label_ids]])
    labels = ids.clone()
    labels[0, : len(example.prompt_ids)] = IGNORE
    return float(model(ids, labels=labels).loss)


def test_collate_pads_on_the_left_and_puts_labels_at_the_end() -> None:
    batch = collate([Example([5, 6, 7], [8]), Example([9], [10, 11])])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [0, 9, 10, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch.labels.tolist() == [[IGNORE, 8], [10, 11]]
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}


@torch.no_grad()
def test_token_nll_of_a_padded_batch_equals_transformers_loss_row_by_row() -> None:
    model = toy_model()
    attach_toy(model, "projected")
    examples = make_examples()
    batch = collate(examples)
    nll = token_nll(model, batch)
    assert nll.shape == batch.labels.shape
    assert torch.count_nonzero(nll[batch.labels == IGNORE]) == 0
    means = nll.sum(1) / torch.tensor([len(example.label_ids) for example in examples])
    assert means.tolist() == pytest.approx(
        [nll_by_transformers(model, example) for example in examples], rel=1e-4
    )


def test_explanation_nll_does_not_depend_on_order_or_batch_size() -> None:
    model = toy_model()
    attach_toy(model, "projected")
    examples = make_examples()
    expected = [nll_by_transformers(model, example) for example in examples]
    for batch_size in (1, 3, 7):
        scores = dict(explanation_nll(model, examples, batch_size))
        assert [scores[index] for index in range(7)] == pytest.approx(expected, rel=1e-4)
    backwards = dict(explanation_nll(model, examples[::-1], 3))
    assert [backwards[6 - index] for index in range(7)] == pytest.approx(expected, rel=1e-4)


def test_explanation_nll_without_labels_is_nan_and_disturbs_no_other() -> None:
    model, examples = toy_model(), [Example([3, 4], [5, 6]), Example([3, 4, 5], [])]
    scores = dict(explanation_nll(model, examples, 2))
    assert math.isnan(scores[1])
    assert scores[0] == pytest.approx(nll_by_transformers(model, examples[0]), rel=1e-4)
    assert math.isnan(dict(explanation_nll(model, examples[1:], 1))[0])
