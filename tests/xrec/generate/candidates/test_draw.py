"""Several texts of a prompt: they are those of the engine, and weighed as `generate` would."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.xrec.generate.test_explainer import sources, workspace  # noqa: F401
from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.config.engine import EngineConfig
from xrec.errors import ConfigError
from xrec.generate.candidates import FEATURES, Ranker
from xrec.generate.candidates.draw import draw_candidates, with_another_user
from xrec.generate.engine import Completion, Engine, LikelihoodParams
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.llm.collaborative import Vocabulary

RULES = {"max_words": None, "max_phrase_repeats": None, "max_echo_tokens": None}
DECODING = DecodingConfig.model_validate(
    {"max_new_tokens": 6, "temperature": 1.0, "num_candidates": 3, "text": RULES}
)
PAIRS = [Pair(0, 1), Pair(11, 9), Pair(4, 2)]


def ranker(**weights: float) -> Ranker:
    count = len(FEATURES)
    return Ranker(
        tuple(weights.get(name, 0.0) for name in FEATURES), (0.0,) * count, (1.0,) * count
    )


@pytest.fixture
def explainer(workspace: Path) -> Explainer:  # noqa: F811
    return load_explainer(sources(workspace), device="cpu", engine=EngineConfig())


def test_candidates_are_weighed_with_the_own_and_with_another_users_vector(
    explainer: Explainer,
) -> None:
    texts = explainer.pairs.texts_of(PAIRS)
    prompts = [explainer.pairs.prompt(pair) for pair in PAIRS]
    drawn = explainer.candidates(prompts, texts, DECODING)
    assert [len(candidates) for candidates in drawn] == [3, 3, 3]
    assert len({each.text for each in drawn[0]}) > 1
    for prompt, candidates in zip(prompts, drawn, strict=True):
        for each in candidates:
            if each.failure is not None:
                continue
            ids = each.completion.token_ids
            own = mean_log_likelihood(explainer, prompt, ids)
            other = with_another_user(prompt, explainer.pairs.builder.vocabulary)
            lead = own - mean_log_likelihood(explainer, other, ids)
            assert each.features[:2] == pytest.approx((own, lead), abs=1e-3)


def mean_log_likelihood(explainer: Explainer, prompt: list[int], ids: list[int]) -> float:
    assert explainer.model is not None
    with torch.inference_mode():
        logits = explainer.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits.float().log_softmax(dim=-1).gather(1, torch.tensor(ids)[:, None])
    return float(chosen.mean())


def test_candidate_that_ended_at_once_is_weighed_by_its_end(explainer: Explainer) -> None:
    """The model may add nothing to an opening that is a whole sentence."""
    engine, builder = explainer.engine, explainer.pairs.builder

    class Ending:
        def complete(self, requests: Any) -> Any:
            if isinstance(requests[0][1], LikelihoodParams):
                yield from engine.complete(requests)
                return
            for index, (_, params) in enumerate(requests):
                for number in range(params.num_texts):
                    yield Completion(index, [], "stop", number=number)

    prompt, texts = explainer.pairs.prompt(PAIRS[0]), explainer.pairs.texts_of(PAIRS[:1])
    drawn = draw_candidates(
        cast(Engine, Ending()),
        [prompt],
        texts,
        DECODING,
        lambda completion: ("For its tea.", None),
        explainer.checker,
        builder.vocabulary,
        builder.end_token,
    )
    own = mean_log_likelihood(explainer, prompt, [builder.end_token])
    assert [each.features[0] for each in drawn[0]] == pytest.approx([own] * 3, abs=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_explanation_is_the_candidate_that_the_ranker_likes_best(
    explainer: Explainer, sign: float
) -> None:
    explainer.ranker = ranker(likelihood=sign)
    texts = explainer.pairs.texts_of(PAIRS)
    prompts = [explainer.pairs.prompt(pair) for pair in PAIRS]
    drawn = explainer.candidates(prompts, texts, DECODING)
    best = {
        candidates[0].index: max(
            (each for each in candidates if each.failure is None),
            key=lambda each: sign * each.features[0],
        ).text
        for candidates in drawn
    }
    found = {each.index: each.text for each in explainer.explain(prompts, texts, DECODING)}
    assert found == best


def test_several_candidates_without_a_ranker_name_the_job_to_run(explainer: Explainer) -> None:
    texts = explainer.pairs.texts_of(PAIRS)
    prompts = [explainer.pairs.prompt(pair) for pair in PAIRS]
    with pytest.raises(ConfigError, match="xrec train-ranker"):
        list(explainer.explain(prompts, texts, DECODING))


def test_several_candidates_without_a_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="num_candidates = 2 with temperature 0"):
        DecodingConfig(num_candidates=2)


def test_another_user_is_another_one_and_nothing_else_changes() -> None:
    vocabulary = Vocabulary(10, 5, 3, num_tokens=2)
    for user in range(5):
        prompt = [1, *vocabulary.user_tokens(user), 9, *vocabulary.item_tokens(2)]
        other = with_another_user(prompt, vocabulary)
        changed = [token for token, before in zip(other, prompt, strict=True) if token != before]
        others = [vocabulary.user_tokens(index) for index in range(5) if index != user]
        assert changed in others
        assert [other[0], *other[3:]] == [prompt[0], *prompt[3:]]
