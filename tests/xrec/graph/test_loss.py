"""Losses against the formulas, written out by hand."""

import math

import pytest
import torch

from xrec.graph import bpr_loss, l2_penalty


def test_bpr_loss_equals_hand_formula() -> None:
    pos, neg = [2.0, -1.0, 0.5], [1.0, 3.0, 0.5]
    expected = sum(-math.log(1 / (1 + math.exp(-(p - n)))) for p, n in zip(pos, neg, strict=True)) / 3
    assert float(bpr_loss(torch.tensor(pos), torch.tensor(neg))) == pytest.approx(expected, rel=1e-6)


def test_bpr_loss_of_hopeless_scores_is_finite() -> None:
    assert float(bpr_loss(torch.tensor([-500.0]), torch.tensor([500.0]))) == pytest.approx(1000.0)


def test_l2_penalty_equals_hand_formula() -> None:
    user, item = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert float(l2_penalty(user, item)) == pytest.approx(0.5 * ((1 + 4 + 4) + (9 + 2)) / 2)
