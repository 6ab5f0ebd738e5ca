"""Losses of hopeless scores, and expected counts; test_step.py has the formulas."""

import pytest
import torch

from xrec.graph.loss import bpr_loss, expected_counts, sampled_softmax_loss


def test_losses_of_hopeless_scores_are_finite_with_gradient():
    assert float(bpr_loss(torch.tensor([-500.0]), torch.tensor([500.0]))) == pytest.approx(1000.0)
    generator = torch.Generator().manual_seed(2)
    users, pos_items, candidates = (
        100 * torch.randn(size, 3, generator=generator) for size in (3, 3, 4)
    )
    is_own = torch.tensor([[True, False, False, False], [False, True, False, True], [True] * 4])
    counts = torch.tensor([0.5, 2.0, 0.1, 1.0]).log()
    users.requires_grad_()
    loss = sampled_softmax_loss(users, pos_items, candidates, is_own, counts, 0.01)
    loss.backward()
    assert loss.isfinite()
    assert users.grad.isfinite().all()


def test_expected_counts_of_mixed_candidates_equal_their_mean_in_draws():
    popularity, rounds = torch.tensor([0.7, 0.2, 0.1, 0.0]), 20_000
    generator = torch.Generator().manual_seed(0)
    in_batch = torch.multinomial(popularity, rounds * 3, replacement=True, generator=generator)
    uniform = torch.randint(4, (rounds * 2,), generator=generator)
    seen = torch.bincount(torch.cat([in_batch, uniform]), minlength=4) / rounds
    torch.testing.assert_close(seen, expected_counts(popularity, 3, 2, 4), atol=0.03, rtol=0)
