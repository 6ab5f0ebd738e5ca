"""Sampling: frequencies equal probabilities, the nucleus is right, draws depend on the prompt."""

import torch

from xrec.config.llm import DecodingConfig
from xrec.generate.sampling import draws, greedy, sampled

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0])


def test_sampled_frequencies_are_the_softmax_of_logits_over_temperature() -> None:
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens = sampled(LOGITS.expand(10_000, 4), uniform, temperature=2.0, top_p=1.0)
    shares = torch.bincount(tokens, minlength=4) / 10_000
    torch.testing.assert_close(shares, torch.softmax(LOGITS / 2, dim=0), atol=2e-4, rtol=0)


def test_sampled_nucleus_holds_the_fewest_tokens_of_that_probability() -> None:
    probabilities = torch.softmax(LOGITS, dim=0)  # 0.64, 0.24, 0.09, 0.03
    uniform = torch.linspace(0, 0.999999, 1000, dtype=torch.float64)
    tokens = sampled(LOGITS.expand(1000, 4), uniform, temperature=1.0, top_p=0.8)
    assert set(tokens.tolist()) == {1, 2}
    assert (tokens == 1).double().mean().item() == round(
        float(probabilities[1] / (probabilities[1] + probabilities[2])), 3
    )
    assert set(sampled(LOGITS.expand(1000, 4), uniform, temperature=1.0, top_p=0.5).tolist()) == {1}


def test_greedy_takes_the_first_of_equal_logits() -> None:
    assert greedy(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]])).tolist() == [1, 0]


def test_draws_depend_on_seed_and_prompt() -> None:
    one = draws([1, 2], DecodingConfig(seed=0, max_new_tokens=5))
    assert torch.equal(one, draws([1, 2], DecodingConfig(seed=0, max_new_tokens=5)))
    assert one.shape == (5,)
    assert not torch.equal(one, draws([1, 3], DecodingConfig(seed=0, max_new_tokens=5)))
    assert not torch.equal(one, draws([1, 2], DecodingConfig(seed=1, max_new_tokens=5)))
