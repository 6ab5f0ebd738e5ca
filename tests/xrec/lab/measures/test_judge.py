"""Judges whose scores are known, some that answer nonsense, and how far two agree."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.world.endpoint import ScriptedModel
from tests.world.town import dataset_of
from xrec.config.evaluate import MetricsConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import SamplingConfig
from xrec.data.dataset import HeldOutPair
from xrec.errors import ConfigError
from xrec.lab.measures.judge import (
    Judge,
    JudgeAccess,
    agreement_lines,
    judge_identity,
    judge_keys,
    judge_question,
)
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.measures import (
    load_measures,
    metrics_anywhere,
    metrics_identity,
    score_table,
)
from xrec.storage import open_location
from xrec.text import Asker, Prompt, ReplyStore

PAIRS = [HeldOutPair(f"u{n}", "i", n, 0, f"reference {n}") for n in range(40)]
TEXTS = ScoredTexts.of(PAIRS, {(f"u{n}", "i"): f"text {n}" for n in range(39)})


def _judge(answer: Callable[..., str], folder: Path) -> tuple[Judge, ScriptedModel]:
    model, store = ScriptedModel(answer), ReplyStore(open_location(str(folder)))
    asker = Asker(model, SamplingConfig(temperature=1.0), store, identity={})
    return Judge("ann", judge_question(), asker), model


def _number(prompt: Prompt[Any]) -> int:
    """The number of the pair that is asked about, also when it is asked for again."""
    asked = next(each for each in prompt.messages if each.content.startswith('{"prediction"'))
    return int(json.loads(asked.content)["prediction"].split()[-1])


def test_judge_whose_scores_are_known_gives_the_known_table(tmp_path, caplog):
    caplog.set_level("INFO", logger="xrec")
    judge, model = _judge(lambda prompt, _: f'{{"score": {2 * _number(prompt)}}}', tmp_path)
    found = judge.of_pairs(TEXTS)
    assert found["gptscore_ann"].tolist() == [2 * n for n in range(39)] + [0]
    assert found["gptscore_ann_failed"].tolist() == [0] * 40
    assert len(model.asked) == 39  # an empty text is not asked about
    asked = json.loads(model.asked[-1][0].messages[-1].content)
    assert asked == {"prediction": "text 0", "reference": "reference 0"}
    assert "ann: 39 requests, 390 tokens of prompts and 78 of replies; failed: none" in caplog.text


def test_judge_that_gives_no_number_of_some_pairs_leaves_these_out_and_says_why(tmp_path, caplog):
    caplog.set_level("INFO", logger="xrec")
    replies = {3: "no idea", 4: '{"score": "high"}', 5: '{"score": 170}', 6: ""}
    replies |= {7: '{"score": true}', 8: " 87 ", 9: "<think>Hm.</think>\n12.5"}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    judge, _ = _judge(answer, tmp_path)
    found = judge.of_pairs(TEXTS)
    assert np.flatnonzero(np.isnan(found["gptscore_ann"])).tolist() == [3, 4, 5, 6, 7]
    assert found["gptscore_ann"][8:10].tolist() == [87.0, 12.5]  # a bare number is a score
    assert found["gptscore_ann_failed"][2:9].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert "failed: 1 invalid_json, 3 invalid_object, 1 empty_reply" in caplog.text


def _config(url: str, **judges: dict[str, Any]) -> MetricsConfig:
    def judge(name: str, settings: dict[str, Any]) -> dict[str, Any]:
        model = {
            "kind": "endpoint",
            "base_url": url,
            "model": f"model-of-{name}",
            "api_key_variable": "JUDGE_KEY",
            "max_retries": 3,
            "sampling": {"temperature": 1.0},
        }
        return {"name": name, "model": model, **settings}

    made = [judge(name, settings) for name, settings in judges.items()]
    return MetricsConfig.model_validate({"encoder": None, "judges": made})


def test_identity_of_a_judge_has_no_limits_waits_and_keys():
    config = _config("http://127.0.0.1:1/v1", ann={}, bob={})
    patient = config.judges[0].model.model_copy(update={"concurrency": 3, "timeout_seconds": 9.0})
    judge = config.judges[0].model_copy(update={"model": patient})
    storage = StorageConfig()
    assert judge_identity(judge, None, storage) == judge_identity(config.judges[0], None, storage)
    assert "JUDGE_KEY" not in json.dumps(metrics_identity(config))
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        judge_keys(config.judges, {})


def test_judges_of_the_same_model_share_it_and_others_have_their_own(tmp_path, monkeypatch):
    loads: list[str] = []

    def load(config: Any, **_: Any) -> ScriptedModel:
        loads.append(config.llm.model)
        return ScriptedModel(lambda prompt, sampling: '{"score": 5}')

    monkeypatch.setattr("xrec.lab.measures.judge.load_language_model", load)
    judges = [
        {"name": name, "model": {"kind": "engine", "llm": {"model": model}, "sampling": sampling}}
        for name, model, sampling in (
            ("ann", "one", {}),
            ("bob", "one", {"temperature": 0.5}),
            ("cid", "other", {}),
        )
    ]
    config = MetricsConfig.model_validate({"encoder": None, "judges": judges})
    access = JudgeAccess(open_location(str(tmp_path)), keys=judge_keys(config.judges, {}))
    measures = load_measures(config, dataset_of(40, 1), PAIRS, device="cpu", judges=access)
    assert loads == ["one", "other"]
    assert score_table(measures, TEXTS)["gptscore_bob"].to_pylist() == [5] * 39 + [0]


def test_metrics_anywhere_name_the_same_models_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    engine = {"kind": "engine", "llm": {"model": "models/small"}}
    config = _config("http://127.0.0.1:1/v1", near={"model": engine}, far={})
    config = config.model_copy(update={"encoder": "models/small"})
    there = metrics_anywhere(config).model_dump(mode="json")
    folder = str(tmp_path / "models" / "small")
    assert there["encoder"] == folder
    assert there["judges"][0]["model"]["llm"]["model"] == folder


def _table(ann: list[float | None], bob: list[float | None], text: str = "a text") -> pa.Table:
    return pa.table(
        {
            "text": [text] * len(ann),
            "gptscore_ann": pa.array(ann, pa.float64()),
            "gptscore_bob": pa.array(bob, pa.float64()),
        }
    )


def lines(table: pa.Table) -> list[str]:
    return agreement_lines("ours", table, ["ann", "bob"])


def test_two_judges_that_rank_alike_far_apart_agree():
    ann = [float(score) for score in range(20)]
    (line,) = lines(_table(ann, [score + 37 for score in ann]))
    assert line.startswith("Judges ann and bob rank the texts of `ours` alike by 1.00,")
    assert line.endswith("over 20 pairs; their means differ by -37.0.")


def test_pairs_without_a_text_or_a_score_are_left_out():
    ann, bob = [1.0, 2.0, None, 4.0, 5.0], [5.0, 4.0, 3.0, None, 1.0]
    (line,) = lines(_table(ann, bob))
    assert "by -1.00" in line
    assert "over 3 pairs" in line
    assert lines(_table(ann, bob, text="")) == []
    assert lines(_table([1.0] * 5, bob)) == []  # it says the same of all
