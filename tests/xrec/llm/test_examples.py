"""Batches and their NLL, against transformers' own loss on one unpadded row at a time.

Our NLL and its gradient equal torch's cross entropy and autograd in float64.
"""

import random

import pytest
import torch

from tests.world.models import attach_toy, toy_model
from xrec.llm.examples import (
    IGNORE,
    Example,
    collate,
    label_nll,
    token_nll,
)

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


def test_collate_pads_on_the_left_and_puts_labels_at_the_end():
    batch = collate([Example([5, 6, 7], [8]), Example([9], [10, 11])])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [0, 9, 10, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch.labels.tolist() == [[IGNORE, 8], [10, 11]]
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}


@torch.no_grad()
def test_token_nll_of_a_padded_batch_equals_transformers_loss_row_by_row():
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


def make_logits(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, 5, 11), some of them large, and labels (3, 5).

    The first two labels of row 0 and all labels of row 2 are to be ignored.
    """
    generator = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(3, 5, 11, generator=generator)).to(dtype)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, :2] = labels[2] = IGNORE
    return logits, labels


def test_label_nll_and_its_gradient_equal_torch_in_float64():
    logits, labels = make_logits()
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    expected_input = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        expected_input.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    )
    (expected * weights).sum().backward()
    own_input = logits.clone().requires_grad_()
    nll = label_nll(own_input, labels)
    (nll * weights).sum().backward()
    torch.testing.assert_close(nll.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_input.grad.double(), expected_input.grad, rtol=1e-5, atol=1e-7)
    assert (
        torch.count_nonzero(nll[labels == IGNORE])
        == torch.count_nonzero(own_input.grad[labels == IGNORE])
        == 0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_label_nll_holds_the_logits_and_one_gradient_in_their_dtype(dtype):
    logits, labels = make_logits(dtype)
    logits.requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        nll = label_nll(logits, labels)
    nll.sum().backward()
    assert nll.dtype == torch.float32  # sums are in it, whatever the logits are in
    assert torch.equal(nll, label_nll(logits.float(), labels))
    assert {tensor.data_ptr() for tensor in saved} == {logits.data_ptr(), labels.data_ptr()}
    assert logits.grad.dtype == dtype
