"""Judges whose scores are known, and some that answer nonsense."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.xrec.lab.judge.stub_model import Answer, StubModel
from xrec.config.text import SamplingConfig
from xrec.data.dataset import HeldOutPair
from xrec.lab.judge import Judge
from xrec.lab.judge.load import judge_question
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.storage import open_location
from xrec.text import Asker, Prompt, ReplyStore

PAIRS = [HeldOutPair(f"u{n}", "i", n, 0, f"reference {n}") for n in range(40)]
TEXTS = ContestantTexts.of(PAIRS, {(f"u{n}", "i"): f"text {n}" for n in range(39)})


def _judge(answer: Answer, folder: Path, *, num_samples: int = 1) -> tuple[Judge, StubModel]:
    model, store = StubModel(answer), ReplyStore(open_location(str(folder)))
    askers = [
        Asker(model, SamplingConfig(temperature=1.0, seed=1000 * sample), store, identity={})
        for sample in range(num_samples)
    ]
    return Judge("ann", judge_question(), askers), model


def _data(prompt: Prompt[Any]) -> dict[str, Any]:
    return json.loads(prompt.messages[-1].content)


def _number(prompt: Prompt[Any]) -> int:
    """The number of the pair that is asked about, also when it is asked for again."""
    asked = next(each for each in prompt.messages if each.content.startswith('{"prediction"'))
    return int(json.loads(asked.content)["prediction"].split()[-1])


def test_judge_whose_scores_are_known_gives_the_known_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="xrec")
    judge, model = _judge(lambda prompt, _: f'{{"score": {2 * _number(prompt)}}}', tmp_path)
    found = judge.of_pairs(TEXTS)
    assert found["gptscore_ann"].tolist() == [2 * n for n in range(39)] + [0]
    assert found["gptscore_ann_failed"].tolist() == [0] * 40
    assert len(model.asked) == 39  # an empty text is not asked about
    assert _data(model.asked[-1][0]) == {"prediction": "text 0", "reference": "reference 0"}
    assert "ann: 39 requests, 390 tokens of prompts and 78 of replies; failed: none" in caplog.text


def test_judge_with_several_samples_gives_mean_and_spread_of_each_pair(tmp_path: Path) -> None:
    def answer(prompt: Prompt[Any], sampling: SamplingConfig) -> str:
        return f'{{"score": {_number(prompt) + sampling.seed / 1000}}}'

    judge, _ = _judge(answer, tmp_path, num_samples=3)
    found = judge.of_pairs(TEXTS)
    assert found["gptscore_ann"].tolist() == [n + 1 for n in range(39)] + [0]
    assert found["gptscore_ann_sample_std"].tolist() == pytest.approx([1.0] * 39 + [0.0])


def _nonsense(prompt: Prompt[Any], seed: int, share: float) -> bool:
    """Whether a reply is nonsense, in `share` of all cases, by a hash of what is asked."""
    said = f"{prompt.messages[-1].content}{seed}{len(prompt.messages)}"
    return hashlib.sha256(said.encode()).digest()[0] < 256 * share


def test_judge_that_answers_nonsense_in_10_of_100_cases_costs_a_second_question_each(
    tmp_path: Path,
) -> None:
    def answer(prompt: Prompt[Any], sampling: SamplingConfig) -> str:
        if _nonsense(prompt, sampling.seed, 0.1):
            return "I would say that this is rather good!"
        return f'{{"score": {_number(prompt)}}}'

    judge, model = _judge(answer, tmp_path, num_samples=5)
    found = judge.of_pairs(TEXTS)
    failed = int(found["gptscore_ann_failed"].sum())
    again = len(model.asked) - 39 * 5
    assert 8 < again < 40
    assert failed < again / 2
    assert found["gptscore_ann"].tolist() == [float(n) for n in range(39)] + [0]


def test_judge_that_never_gives_a_number_of_some_pairs_leaves_these_out_and_counts_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="xrec")
    replies = {3: "no idea", 4: '{"score": "high"}', 5: '{"score": 170}', 6: ""}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    judge, _ = _judge(answer, tmp_path, num_samples=2)
    found = judge.of_pairs(TEXTS)
    assert np.flatnonzero(np.isnan(found["gptscore_ann"])).tolist() == [3, 4, 5, 6]
    assert found["gptscore_ann_failed"][2:8].tolist() == [0, 2, 2, 2, 2, 0]
    assert "failed: 1 invalid_json, 2 invalid_object, 1 empty_reply" in caplog.text


def test_reply_that_is_a_bare_number_is_a_score_and_a_yes_is_none(tmp_path: Path) -> None:
    replies = {3: " 87 ", 4: '{"score": true}', 5: "<think>Hm.</think>\n12.5"}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    judge, _ = _judge(answer, tmp_path)
    scores = judge.of_pairs(TEXTS)["gptscore_ann"].tolist()
    assert (scores[3], scores[5]) == (87.0, 12.5)
    assert np.isnan(scores[4])


def test_judge_does_not_ask_again_after_a_kill_for_what_was_answered(tmp_path: Path) -> None:
    answered: Iterator[str] = iter(['{"score": 7}'] * 30)

    def stops(prompt: Prompt[Any], _: SamplingConfig) -> str:
        try:
            return next(answered)
        except StopIteration:
            raise KeyboardInterrupt from None

    judge, _ = _judge(stops, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        judge.of_pairs(TEXTS)
    judge, model = _judge(lambda prompt, _: '{"score": 7}', tmp_path)
    assert judge.of_pairs(TEXTS)["gptscore_ann"].tolist() == [7.0] * 39 + [0]
    assert len(model.asked) == 9
