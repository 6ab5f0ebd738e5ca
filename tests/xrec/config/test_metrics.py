"""What the metrics' config refuses, with what to do."""

from typing import Any

import pytest
from pydantic import ValidationError

from xrec.config.evaluate import JudgeConfig, MetricsConfig

ENDPOINT = {"kind": "endpoint", "model": "gpt"}


def _judge(name: str = "ann", temperature: float | None = 1.0, **values: Any) -> dict[str, Any]:
    model = {**ENDPOINT, "sampling": {"temperature": temperature}}
    return {"name": name, "model": model, **values}


def test_one_judge_alone_is_refused_and_two_of_a_name_too() -> None:
    MetricsConfig.model_validate({"judges": [_judge("ann"), _judge("bob")]})
    with pytest.raises(ValidationError, match="judges has 'ann' alone; give at least two"):
        MetricsConfig.model_validate({"judges": [_judge("ann")]})
    with pytest.raises(ValidationError, match="expected each once"):
        MetricsConfig.model_validate({"judges": [_judge("ann"), _judge("ann")]})


@pytest.mark.parametrize(
    "name", ["", "Ann", "a b", "9", "_a", "a" * 40, "ann_failed", "ann_sample_std"]
)
def test_name_of_a_judge_that_could_not_be_a_column_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        JudgeConfig.model_validate(_judge(name))


def test_several_samples_at_temperature_0_are_refused() -> None:
    assert JudgeConfig.model_validate(_judge(num_samples=5)).num_samples == 5
    assert JudgeConfig.model_validate(_judge(temperature=None, num_samples=5)).num_samples == 5
    with pytest.raises(ValidationError, match="at temperature 0 all samples are the same"):
        JudgeConfig.model_validate(_judge(temperature=0.0, num_samples=2))
    engine = {"kind": "engine", "sampling": {"temperature": None}}
    with pytest.raises(ValidationError, match="at temperature 0"):
        JudgeConfig.model_validate({"name": "ann", "model": engine, "num_samples": 2})


def test_baseline_of_one_which_would_divide_by_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="baseline must be below 1"):
        MetricsConfig.model_validate({"encoder": {"baseline": [0.8, 1.0, 0.8]}})


def test_endpoint_judges_of_several_processes_share_their_limits_and_engines_have_none() -> None:
    limits = {"concurrency": 16, "requests_per_minute": 90.0}
    engine = {"name": "cid", "model": {"kind": "engine", "llm": {"model": "none"}}}
    ann = _judge("ann")
    config = MetricsConfig.model_validate(
        {"judges": [{**ann, "model": {**ann["model"], **limits}}, engine]}
    )
    shared = config.shared_among(3)
    model = shared.judges[0].model
    assert (model.concurrency, model.requests_per_minute, model.tokens_per_minute) == (5, 30, None)
    assert shared.judges[1] == config.judges[1]
    assert config.shared_among(100).judges[0].model.concurrency == 1
