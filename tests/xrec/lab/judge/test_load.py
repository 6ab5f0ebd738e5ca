"""Judges of a config, through a real endpoint on loopback, beside the other measures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.lab.judge.stub_model import StubModel
from tests.xrec.lab.measures.small_dataset import dataset_of
from tests.xrec.text.stub_endpoint import Answer, Asked, stub_endpoint
from xrec.config.metrics import EncoderConfig, MetricsConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import HeldOutPair
from xrec.errors import ConfigError
from xrec.lab.judge import JudgeAccess, judge_identity, judge_keys
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measures import (
    describe_metrics,
    load_measures,
    metrics_anywhere,
    metrics_identity,
)
from xrec.storage import open_location

PAIRS = [HeldOutPair(f"u{n}", "i0", n, 0, f"reference {n}") for n in range(12)]
TEXTS = ContestantTexts.of(PAIRS, {(f"u{n}", "i0"): f"text {n}" for n in range(12)})


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


def _access(config: MetricsConfig, folder: Path) -> JudgeAccess:
    return JudgeAccess(
        open_location(str(folder)), keys=judge_keys(config.judges, {"JUDGE_KEY": "sk-x"})
    )


def test_two_judges_through_an_endpoint_give_the_known_table_side_by_side(tmp_path: Path) -> None:
    def behave(asked: Asked) -> Answer:
        question = asked.body["messages"][1]["content"]  # also where it is asked again
        number = int(json.loads(question)["prediction"].split()[-1])
        if asked.body["model"] == "model-of-bob":
            return Answer(text=f'{{"score": {100 - number}}}')
        return Answer(text=f'{{"score": {number}}}' if number else "nonsense", num_tokens=(3, 2))

    with stub_endpoint(behave) as stub:
        config = _config(stub.url, ann={}, bob={"num_samples": 2})
        measures = load_measures(
            config, dataset_of(12, 1), PAIRS, device="cpu", judges=_access(config, tmp_path)
        )
        table = measures.of_pairs(TEXTS)
    assert table["gptscore_ann"].to_pylist() == [None, *range(1, 12)]
    assert table["gptscore_bob"].to_pylist() == [100 - n for n in range(12)]
    assert table["gptscore_bob_sample_std"].to_pylist() == [0] * 12
    assert table["gptscore_ann_failed"].to_pylist() == [1] + [0] * 11
    assert {asked.headers["authorization"] for asked in stub.asked} == {"Bearer sk-x"}
    columns = set(table.column_names) - {"user_id", "item_id", "text"}
    assert columns <= set(describe_metrics(config, dataset_of(12, 1)))


def test_identity_of_a_judge_has_no_limits_waits_and_keys() -> None:
    config = _config("http://127.0.0.1:1/v1", ann={}, bob={})
    patient = config.judges[0].model.model_copy(update={"concurrency": 3, "timeout_seconds": 9.0})
    judge = config.judges[0].model_copy(update={"model": patient})
    storage = StorageConfig()
    assert judge_identity(judge, None, storage) == judge_identity(config.judges[0], None, storage)
    assert "JUDGE_KEY" not in json.dumps(metrics_identity(config))


def test_judges_that_cannot_be_reached_are_said_before_anything_is_asked() -> None:
    config = _config("http://127.0.0.1:1/v1", ann={}, bob={})
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        judge_keys(config.judges, {})
    with pytest.raises(ValueError, match="expected `judges`"):
        load_measures(config, dataset_of(12, 1), PAIRS, device="cpu")


def test_judges_of_the_same_model_share_it_and_others_have_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(config: Any, **_: Any) -> StubModel:
        loads.append(config.llm.model)
        return StubModel(lambda prompt, sampling: '{"score": 5}')

    monkeypatch.setattr("xrec.lab.judge.load.load_language_model", load)
    judges = [
        {"name": name, "model": {"kind": "engine", "llm": {"model": model}, "sampling": sampling}}
        for name, model, sampling in (
            ("ann", "one", {}),
            ("bob", "one", {"temperature": 0.5}),
            ("cid", "other", {}),
        )
    ]
    config = MetricsConfig.model_validate({"encoder": None, "judges": judges})
    measures = load_measures(
        config, dataset_of(12, 1), PAIRS, device="cpu", judges=_access(config, tmp_path)
    )
    assert loads == ["one", "other"]
    assert measures.of_pairs(TEXTS)["gptscore_bob"].to_pylist() == [5] * 12


def test_metrics_anywhere_name_the_same_models_and_prompts_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    engine = {"kind": "engine", "llm": {"model": "models/small"}}
    config = _config("http://127.0.0.1:1/v1", near={"model": engine}, far={})
    encoder = EncoderConfig(source="models/small")
    config = config.model_copy(update={"encoder": encoder})
    there = metrics_anywhere(config).model_dump(mode="json")
    folder = str(tmp_path / "models" / "small")
    assert there["encoder"]["source"] == folder
    assert there["judges"][0]["model"]["llm"]["model"] == folder
