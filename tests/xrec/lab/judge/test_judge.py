"""Judges whose scores are known, and some that answer nonsense."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.xrec.lab.judge.stub_model import Answer, StubModel
from xrec.config.metrics import JudgeConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import SamplingConfig
from xrec.data.held_out import HeldOutPair
from xrec.lab.judge import Judge
from xrec.lab.judge.questions import read_questions
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.storage import open_location
from xrec.text import Asker, Prompt, ReplyStore

MODEL = {"kind": "endpoint", "model": "none", "sampling": {"temperature": 1.0}}
CONFIG = JudgeConfig.model_validate({"name": "ann", "model": MODEL})
PAIRS = [HeldOutPair(f"u{n}", "i", n, 0, f"reference {n}") for n in range(40)]
TEXTS = ContestantTexts.of(PAIRS, {(f"u{n}", "i"): f"text {n}" for n in range(39)})


def _judge(
    answer: Answer, folder: Path, *, num_samples: int = 1, statements: bool = False
) -> tuple[Judge, StubModel]:
    model, store = StubModel(answer), ReplyStore(open_location(str(folder)))
    askers = [
        Asker(model, SamplingConfig(temperature=1.0, seed=1000 * sample), store, identity={})
        for sample in range(num_samples)
    ]
    questions = read_questions(CONFIG, StorageConfig())
    return Judge("ann", questions, askers, has_statements=statements), model


def _data(prompt: Prompt[Any]) -> dict[str, Any]:
    return json.loads(prompt.messages[-1].content)


def _number(prompt: Prompt[Any]) -> int:
    """The number of the pair that is asked about, also when it is asked for again."""
    asked = next(each for each in prompt.messages if each.content.startswith('{"prediction"'))
    return int(json.loads(asked.content)["prediction"].split()[-1])


def test_judge_whose_scores_are_known_gives_the_known_table(tmp_path: Path) -> None:
    judge, model = _judge(lambda prompt, _: f'{{"score": {2 * _number(prompt)}}}', tmp_path)
    found = judge.of_pairs(TEXTS)
    assert found["gptscore_ann"].tolist() == [2 * n for n in range(39)] + [0]
    assert found["gptscore_ann_failed"].tolist() == [0] * 40
    assert len(model.asked) == 39  # an empty text is not asked about
    assert _data(model.asked[-1][0]) == {"prediction": "text 0", "reference": "reference 0"}
    assert judge.tally.taken() == {"prompt_tokens": 390, "reply_tokens": 78, "requests": 39}
    assert judge.tally.taken() == {}


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
    assert judge.tally.taken().get("failed:invalid_json", 0) == failed


def test_judge_that_never_gives_a_number_of_some_pairs_leaves_these_out_and_counts_why(
    tmp_path: Path,
) -> None:
    replies = {3: "no idea", 4: '{"score": "high"}', 5: '{"score": 170}', 6: ""}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    judge, _ = _judge(answer, tmp_path, num_samples=2)
    found = judge.of_pairs(TEXTS)
    assert np.flatnonzero(np.isnan(found["gptscore_ann"])).tolist() == [3, 4, 5, 6]
    assert found["gptscore_ann_failed"][2:8].tolist() == [0, 2, 2, 2, 2, 0]
    counts = judge.tally.taken()
    assert {name: count for name, count in counts.items() if name.startswith("failed")} == {
        "failed:invalid_json": 2,
        "failed:invalid_object": 4,
        "failed:empty_reply": 2,
    }


def test_reply_that_is_a_bare_number_is_a_score_and_a_yes_is_none(tmp_path: Path) -> None:
    replies = {3: " 87 ", 4: '{"score": true}', 5: "<think>Hm.</think>\n12.5"}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    judge, _ = _judge(answer, tmp_path)
    scores = judge.of_pairs(TEXTS)["gptscore_ann"].tolist()
    assert (scores[3], scores[5]) == (87.0, 12.5)
    assert np.isnan(scores[4])


def test_judge_costs_the_same_whatever_was_asked_before_and_in_whichever_process(
    tmp_path: Path,
) -> None:
    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return '{"score": 50}'

    judge, model = _judge(answer, tmp_path)
    costs = []
    for each in (judge, judge, _judge(answer, tmp_path)[0]):
        each.of_pairs(TEXTS)
        costs.append(each.tally.taken())
    assert len(model.asked) == 39
    assert costs[0] == costs[1] == costs[2] != {}


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


STATEMENTS = {
    "text 0": ["a", "b", "c", "d"],
    "reference 0": ["a", "e"],
    "text 1": ["x"],
    "reference 1": ["y"],
    "text 2": [],
    "reference 2": ["z"],
    "text 3": ["a"],
    "reference 3": [],
    "reference 39": ["y"],
}
SUPPORTED = {"reference 0": {"a", "b", "d"}, "text 0": {"a"}}


def _statements(prompt: Prompt[Any], _: SamplingConfig) -> str:
    data = _data(prompt)
    if "prediction" in data:
        return '{"score": 1}'
    if "statements" not in data:
        return json.dumps({"statements": STATEMENTS[data["text"]]})
    known = SUPPORTED.get(data["text"], set())
    return json.dumps({"supported": [said in known for said in data["statements"]]})


def test_statements_have_precision_of_the_text_and_recall_of_the_reference(tmp_path: Path) -> None:
    judge, model = _judge(_statements, tmp_path, statements=True)
    found = judge.of_pairs(TEXTS.of_rows([0, 1, 2, 3, 39]))
    figures = {
        name.removeprefix("statements_ann_"): values.tolist()
        for name, values in found.items()
        if name.startswith("statements")
    }
    # Three of four statements of the text are in the reference, one of two the other way round.
    nan = pytest.approx(np.nan, nan_ok=True)
    assert figures["precision"] == [0.75, 0, 0, 0, 0]
    assert figures["recall"] == [0.5, 0, 0, nan, 0]
    assert figures["f1"] == [pytest.approx(0.6), 0, 0, nan, 0]
    assert figures["failed"] == [0] * 5
    asked = [_data(prompt) for prompt, _ in model.asked]
    assert {"text": "reference 0", "statements": ["a", "b", "c", "d"]} in asked
    assert {"text": "text 0", "statements": ["a", "e"]} in asked


def test_statements_of_a_reference_that_states_nothing_are_recalled_by_no_text(
    tmp_path: Path,
) -> None:
    judge, _ = _judge(_statements, tmp_path, statements=True)
    empty = ContestantTexts.of([PAIRS[3], PAIRS[39]], {})
    found = judge.of_pairs(empty)
    for name in ("recall", "f1"):  # undefined, as it is for contestants with a text
        assert np.isnan(found[f"statements_ann_{name}"]).tolist() == [True, False]
    assert found["statements_ann_precision"].tolist() == [0, 0]


def test_statements_with_too_few_answers_are_asked_for_again_and_then_counted(
    tmp_path: Path,
) -> None:
    def answer(prompt: Prompt[Any], sampling: SamplingConfig) -> str:
        if prompt.schema.__name__.startswith("SupportOf4"):
            return '{"supported": [true, false]}'
        return _statements(prompt, sampling)

    judge, model = _judge(answer, tmp_path, statements=True)
    found = judge.of_pairs(TEXTS.of_rows([0]))
    assert np.isnan(found["statements_ann_precision"][0])
    assert found["statements_ann_recall"].tolist() == [0.5]
    assert found["statements_ann_failed"].tolist() == [1]
    assert judge.tally.taken()["failed:invalid_object"] == 1
    again = [prompt for prompt, _ in model.asked if len(prompt.messages) > 4]
    assert "at least 4 items" in again[0].messages[-1].content
