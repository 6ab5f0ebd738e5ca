"""A run's metrics while it runs: JSON Lines, TensorBoard's events, and Ray's gauges."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from xrec.storage import Location, open_location
from xrec.train.metrics import EVENTS, MetricsLog, TrainingMetrics, event_file


def row(epoch: int, loss: float, **more: float) -> dict[str, Any]:
    return {"epoch": epoch, "loss": loss, **more, "time": 1000.0 + epoch}


def events(data: bytes) -> list[tuple[int, str, float, float]]:
    """Return (step, tag, value, time) of each scalar.

    The format is that of TFRecord: length, its checksum, event, its checksum.
    """
    scalars = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event()
        event.ParseFromString(data[12 : 12 + length])
        scalars += [
            (event.step, value.tag, value.simple_value, event.wall_time)
            for value in event.summary.value
        ]
        data = data[16 + length :]
    return scalars


def lines(location: Location) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (location / "metrics.jsonl").read_text().splitlines()]


def test_metrics_log_on_s3_goes_on_after_an_interruption_with_each_epoch_once(s3: Any) -> None:
    location = open_location(f"{s3.new_bucket()}/graph", s3.storage)
    first = MetricsLog(location)
    for epoch in (1, 2, 3):
        first.add(row(epoch, 1.0 / epoch))
    second = MetricsLog(location)
    second.add(row(2, 0.25, **{"ndcg@20": 0.5}))  # from the checkpoint after epoch 1
    expected = [row(1, 1.0), row(2, 0.25, **{"ndcg@20": 0.5})]
    assert second.rows == expected
    assert lines(location) == expected
    assert events((location / EVENTS).read_bytes()) == [
        (1, "loss", 1.0, 1001.0),
        (2, "loss", 0.25, 1002.0),
        (2, "ndcg_20", 0.5, 1002.0),
    ]


def test_metrics_log_writes_a_file_that_tensorboard_looks_for(tmp_path: Path) -> None:
    MetricsLog(open_location(str(tmp_path))).add(row(1, 0.5))
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert "tfevents" in file.name  # TensorBoard reads files with this in their name


def test_event_file_only_grows() -> None:
    header = (
        8 + 4 + len(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()) + 4
    )  # holds the time of writing
    shorter, longer = event_file([row(1, 0.5)]), event_file([row(1, 0.5), row(2, 0.25)])
    assert len(longer) > len(shorter)
    assert (
        longer[header : len(shorter)] == shorter[header:]
    )  # a running TensorBoard reads on from where it was


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

    monkeypatch.setattr("xrec.train.metrics.Gauge", Gauge)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    return seen


def _recorded(values: Values, row: dict[str, Any], job: str) -> dict[tuple[str, ...], float]:
    TrainingMetrics(job).record(row)
    return {
        (name.removeprefix("xrec_train_"), *sorted(labels - {job})): value
        for (name, labels), value in values.items()
    }


def test_record_an_adapters_epoch(values: Values) -> None:
    row = {
        "epoch": 2,
        "step": 40,
        "train_loss": 3.5,
        "validation_loss": 3.25,
        "seconds": 12.0,
        "padding_share": 0.1,
    }
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
