"""A training run's metrics while it runs: Ray's gauges."""

from collections.abc import Mapping
from typing import Any

import pytest

from xrec.train.ray_driver import TrainingMetrics

Values = dict[tuple[str, frozenset[str]], float]


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> Values:
    """What Ray's gauges were set to, by name and the labels' values.

    A label that is not declared fails, as in Ray.
    """
    seen: Values = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]):
            self._name, self._tag_keys = name, tag_keys

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            assert tags.keys() == set(self._tag_keys)
            seen[self._name, frozenset(tags.values())] = value

    monkeypatch.setattr("xrec.train.ray_driver.Gauge", Gauge)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    return seen


def _recorded(values: Values, row: dict[str, Any], job: str) -> dict[tuple[str, ...], float]:
    TrainingMetrics(job).record(row)
    return {
        (name.removeprefix("xrec_train_"), *sorted(labels - {job})): value
        for (name, labels), value in values.items()
    }


def test_record_an_adapters_epoch(values: Values) -> None:
    row = {"epoch": 2, "step": 40, "train_loss": 3.5, "validation_loss": 3.25, "seconds": 12.0}
    assert _recorded(values, row, "train-adapter") == {
        ("epoch",): 2,
        ("step",): 40,
        ("loss", "train"): 3.5,
        ("loss", "validation"): 3.25,
        ("epoch_seconds",): 12.0,
        ("reported_timestamp_seconds",): 1000.0,
    }


def test_record_a_graphs_epoch_with_and_without_evaluation(values: Values) -> None:
    without = _recorded(
        values, {"epoch": 1, "loss": 0.5, "seconds": 1.0, "time": 0.0}, "pretrain-graph"
    )
    assert without[("loss", "train")] == 0.5
    assert not any(name == "score" for name, *_ in without)
    with_scores = _recorded(
        values,
        {"epoch": 2, "loss": 0.4, "seconds": 1.0, "time": 0.0, "ndcg@20": 0.2, "recall@20": 0.3},
        "pretrain-graph",
    )
    assert {
        labels[0]: value for (name, *labels), value in with_scores.items() if name == "score"
    } == {"ndcg@20": 0.2, "recall@20": 0.3}


def test_running_is_1_until_it_ends_by_whatever_and_its_start_counts_as_a_report(
    values: Values,
) -> None:
    metrics = TrainingMetrics("train-adapter")
    running = ("xrec_train_running", frozenset({"train-adapter"}))

    def interrupted() -> None:
        with metrics.running():
            assert values[running] == 1
            assert (
                values["xrec_train_reported_timestamp_seconds", frozenset({"train-adapter"})]
                == 1000.0
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert values[running] == 0
