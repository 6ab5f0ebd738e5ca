"""The benchmarks of models: contestants write the same texts and have one loss."""

import pytest
import torch

from benchmarks import generate
from benchmarks.train_contestants import Contest, Setup, prepare, whole_row_loss
from xrec.llm.loss import PrefixCache
from xrec.train.adapter_model import ExplanationLoss


def test_contestants_write_the_same_texts(workspace):
    """8 pairs of two users."""
    contest = generate.Contest(str(workspace), str(workspace / "llm"), "float32", 1, 8, 4, 6)
    loop, static, ours = (
        dict(generate.CONTESTANTS[name](generate.prepare(contest)))
        for name in ("loop", "static-8", "ours")
    )
    assert [len(ids) for ids in loop.values()] == [6] * 8
    assert loop == static == ours


def take_gradients(setup: Setup) -> list[torch.Tensor]:
    gradients = [each.grad.clone() for each in setup.trainable if each.grad is not None]
    setup.model.zero_grad()
    return gradients


def test_plain_rows_and_ours_have_the_same_loss_and_gradients(workspace):
    dataset, llm = str(workspace / "dataset"), str(workspace / "llm")
    setup = prepare(Contest(dataset, llm, 16, 8, 4, "float32", 1))
    setup.model.eval()  # no noise on the gates
    examples = setup.examples[:4]
    total = sum(whole_row_loss(setup, each) * len(each.label_ids) for each in examples)
    total.backward()
    expected = take_gradients(setup)
    prefixes = PrefixCache(setup.model, [], num_positions=999, budget_bytes=0)
    ours = ExplanationLoss(setup.model, prefixes).eval()(examples)
    ours.backward()
    assert ours.item() == pytest.approx(total.item(), rel=1e-5)
    for gradient, other in zip(take_gradients(setup), expected, strict=True):
        tolerance = 1e-4 * float(other.abs().max()) + 1e-9
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=tolerance)
