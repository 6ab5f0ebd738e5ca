"""Losses against the formulas, written out by hand."""

import math

import pytest
import torch

from xrec.graph.loss import bpr_loss, expected_counts, sampled_softmax_loss


def test_bpr_loss_equals_hand_formula_and_is_finite_for_hopeless_scores():
    pos, neg = [2.0, -1.0, 0.5], [1.0, 3.0, 0.5]
    expected = (
        sum(-math.log(1 / (1 + math.exp(-(p - n)))) for p, n in zip(pos, neg, strict=True)) / 3
    )
    assert float(bpr_loss(torch.tensor(pos), torch.tensor(neg))) == pytest.approx(
        expected, rel=1e-6
    )
    assert float(bpr_loss(torch.tensor([-500.0]), torch.tensor([500.0]))) == pytest.approx(1000.0)


def softmax_case(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Three rows and four candidates.

    Row 1's own item stands twice among the candidates; row 2 has no candidate but its own item.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: scale * torch.randn(size, 3, generator=generator)
        for name, size in (("users", 3), ("pos_items", 3), ("candidates", 4))
    }
    is_own_item = torch.tensor(
        [[True, False, False, False], [False, True, False, True], [True, True, True, True]]
    )
    return {
        **vectors,
        "is_own_item": is_own_item,
        "log_expected_counts": torch.tensor([0.5, 2.0, 0.1, 1.0]).log(),
    }


def by_hand(case: dict[str, torch.Tensor], temperature: float) -> float:
    users, pos_items, candidates = (
        case[name].tolist() for name in ("users", "pos_items", "candidates")
    )
    counts = case["log_expected_counts"].exp().tolist()
    total = 0.0
    for user, pos, own in zip(users, pos_items, case["is_own_item"].tolist(), strict=True):
        score = sum(a * b for a, b in zip(user, pos, strict=True)) / temperature
        denominator = math.exp(score)
        for candidate, count, skip in zip(candidates, counts, own, strict=True):
            if not skip:
                denominator += (
                    math.exp(sum(a * b for a, b in zip(user, candidate, strict=True)) / temperature)
                    / count
                )
        total += -score + math.log(denominator)
    return total / len(users)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sampled_softmax_equals_a_loop_of_floats(temperature):
    case = softmax_case(0)
    assert float(sampled_softmax_loss(**case, temperature=temperature)) == pytest.approx(
        by_hand(case, temperature), rel=1e-5
    )


def test_sampled_softmax_gradient_equals_finite_differences():
    case = {
        name: value.double() if value.is_floating_point() else value
        for name, value in softmax_case(1).items()
    }
    vectors = tuple(case[name].requires_grad_() for name in ("users", "pos_items", "candidates"))
    assert torch.autograd.gradcheck(
        lambda *v: sampled_softmax_loss(*v, case["is_own_item"], case["log_expected_counts"], 0.7),
        vectors,
    )


def test_sampled_softmax_of_huge_scores_is_finite_with_gradient():
    case = softmax_case(2, scale=100.0)
    case["users"].requires_grad_()
    loss = sampled_softmax_loss(**case, temperature=0.01)
    loss.backward()
    assert loss.isfinite()
    assert case["users"].grad.isfinite().all()


def test_expected_counts_of_mixed_candidates_equal_their_mean_in_draws():
    popularity, rounds = torch.tensor([0.7, 0.2, 0.1, 0.0]), 20_000
    generator = torch.Generator().manual_seed(0)
    in_batch = torch.multinomial(popularity, rounds * 3, replacement=True, generator=generator)
    uniform = torch.randint(4, (rounds * 2,), generator=generator)
    seen = torch.bincount(torch.cat([in_batch, uniform]), minlength=4) / rounds
    torch.testing.assert_close(seen, expected_counts(popularity, 3, 2, 4), atol=0.03, rtol=0)
