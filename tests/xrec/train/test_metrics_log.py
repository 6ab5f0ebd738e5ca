"""The log of a run: JSON Lines and TensorBoard's events, each epoch once; goes on after an interruption; local and S3."""

import json
import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from xrec.storage import Location, open_location
from xrec.train.metrics_log import EVENTS, MetricsLog, event_file


def row(epoch: int, loss: float, **more: float) -> dict[str, Any]:
    return {"epoch": epoch, "loss": loss, **more, "time": 1000.0 + epoch}


def events(data: bytes) -> list[tuple[int, str, float, float]]:
    """(step, tag, value, time) of each scalar; the format is that of TFRecord: length, its checksum, event, its checksum."""
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
