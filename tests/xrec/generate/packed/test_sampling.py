"""Sampling: frequencies equal probabilities, the nucleus is right, draws depend on the prompt."""

import pytest
import torch
from torch import Tensor

from xrec.generate.engine import TextParams
from xrec.generate.packed import sampling
from xrec.generate.packed.sampling import draws, greedy, sampled

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0])


def drawn(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    rows = torch.full((len(uniform),), temperature, dtype=torch.float64)
    return sampled(logits.expand(len(uniform), -1), uniform, rows, torch.full_like(rows, top_p))


def drawn_by_hand(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> list[int]:
    """Sort all tokens of a row by probability, and walk along them up to the number."""
    weights = torch.exp((logits.double() - logits.double().max()) / temperature).tolist()
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    nucleus: list[int] = []
    for token in order:
        if sum(weights[one] for one in nucleus) >= top_p * sum(weights):
            break
        nucleus.append(token)
    mass, tokens = sum(weights[token] for token in nucleus), []
    for number in uniform.tolist():
        left = number * mass
        for token in nucleus:
            left -= weights[token]
            if left < 0:
                break
        tokens.append(token)
    return tokens


def test_sampled_frequencies_are_the_softmax_of_logits_over_temperature() -> None:
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens = drawn(LOGITS, uniform, temperature=2.0, top_p=1.0)
    shares = torch.bincount(tokens, minlength=4) / 10_000
    torch.testing.assert_close(shares, torch.softmax(LOGITS / 2, dim=0), atol=2e-4, rtol=0)


def test_sampled_nucleus_holds_the_fewest_tokens_of_that_probability() -> None:
    probabilities = torch.softmax(LOGITS, dim=0)  # 0.64, 0.24, 0.09, 0.03
    uniform = torch.linspace(0, 0.999999, 1000, dtype=torch.float64)
    tokens = drawn(LOGITS, uniform, temperature=1.0, top_p=0.8)
    assert set(tokens.tolist()) == {1, 2}
    assert (tokens == 1).double().mean().item() == round(
        float(probabilities[1] / (probabilities[1] + probabilities[2])), 3
    )
    assert set(drawn(LOGITS, uniform, temperature=1.0, top_p=0.5).tolist()) == {1}


@pytest.mark.parametrize("top_p", [1.0, 0.999, 0.9, 0.3, 1e-9])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0])
@pytest.mark.parametrize("num_likeliest", [1, 8, 500])
def test_sampled_tokens_do_not_depend_on_how_many_are_looked_at_first(
    monkeypatch: pytest.MonkeyPatch, num_likeliest: int, temperature: float, top_p: float
) -> None:
    monkeypatch.setattr(sampling, "_NUM_LIKELIEST", num_likeliest)
    # In bfloat16 many logits are equal.
    logits = (2 * torch.randn(500, generator=torch.Generator().manual_seed(1))).bfloat16()
    uniform = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    assert drawn(logits, uniform, temperature, top_p).tolist() == drawn_by_hand(
        logits, uniform, temperature, top_p
    )


def test_sampled_rows_have_their_own_temperature_and_nucleus() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    uniform = torch.tensor([0.5, 0.9, 0.1], dtype=torch.float64)
    temperature = torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64)
    top_p = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
    assert sampled(logits, uniform, temperature, top_p).tolist() == [
        drawn_by_hand(row, one[None], float(heat), float(share))[0]
        for row, one, heat, share in zip(logits, uniform, temperature, top_p, strict=True)
    ]


def test_sampled_never_takes_a_token_that_is_not_allowed() -> None:
    logits = torch.where(torch.arange(600) % 100 == 7, 0.0, -torch.inf)
    uniform = torch.linspace(0, 0.999999, 100, dtype=torch.float64)
    tokens = drawn(logits, uniform, temperature=1.0, top_p=1.0)
    assert set(tokens.tolist()) == {7, 107, 207, 307, 407, 507}


def test_greedy_takes_the_first_of_equal_logits() -> None:
    assert greedy(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]]))[1].tolist() == [1, 0]


def test_draws_depend_on_seed_prompt_and_number() -> None:
    params = TextParams(seed=0, max_new_tokens=5)
    one = draws([1, 2], params)
    assert torch.equal(one, draws([1, 2], params))
    assert one.shape == (5,)
    assert not torch.equal(one, draws([1, 3], params))
    assert not torch.equal(one, draws([1, 2], TextParams(seed=1, max_new_tokens=5)))
    assert not torch.equal(one, draws([1, 2], params, number=1))
