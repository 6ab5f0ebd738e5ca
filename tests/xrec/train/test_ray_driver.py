"""`fit` on a real Ray cluster, and its metrics for Prometheus."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises
from xrec.config import Workers
from xrec.errors import ConfigError, DataError
from xrec.storage import Location, open_location
from xrec.train.ray_driver import TrainingMetrics, fit, uses_gpu


def run(loop: Any, folder: Path, sizes: dict[str, int], **settings: Any) -> Location:
    workers, storage = Workers(device="cpu", **sizes), open_location(str(folder))
    loop_config = {"log": str(folder / "log")}
    return fit(loop, loop_config, workers=workers, storage=storage, name="run", **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_fit_raises_a_workers_xrec_error_unchanged_and_without_a_retry(tmp_path):
    def loop(config: dict[str, Any]) -> None:
        from pathlib import Path

        from xrec.errors import DataError

        with Path(config["log"]).open("a") as log:
            log.write("started\n")
        raise DataError("graph is empty; expected edges", code="empty", saw=7)

    with raises(DataError, "empty", saw=7):
        run(loop, tmp_path, {"num_processes": 1, "max_failures": 3})
    assert (tmp_path / "log").read_text() == "started\n"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_fit_trains_on_as_many_workers_as_fit_and_passes_on_reports_and_notes(tmp_path, caplog):
    def loop(config: dict[str, Any]) -> None:
        import torch

        from xrec.train.ray_worker import report, world_size

        for epoch in (1, 2):
            sizes = {"world_size": world_size(), "threads": torch.get_num_threads()}
            report({"epoch": epoch, **sizes}, {"file": f"{epoch}".encode()})
            report({"note": f"after {epoch}"}, {"file": b"-"} if epoch == 1 else None)

    seen: list[dict[str, Any]] = []
    sizes = {"num_processes": 64, "min_processes": 2, "max_failures": 0}
    with caplog.at_level("INFO", logger="xrec"):
        checkpoint = run(loop, tmp_path, sizes, on_report=seen.append)
    assert (checkpoint / "file").read_bytes() == b"2"
    assert seen == [{"epoch": epoch, "world_size": 4, "threads": 1} for epoch in (1, 2)]
    assert {"after 1", "after 2"} <= {*caplog.messages}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "cuda", "num_processes": 9}, True),
        ({"device": "auto", "num_processes": 8}, True),
        ({"device": "auto", "num_processes": 9, "min_processes": 8}, True),
        ({"device": "cpu", "num_processes": 1}, False),
    ],
)
def test_workers_use_the_gpus_and_too_few_are_an_error(settings, expected):
    assert uses_gpu(Workers(**settings), num_gpus=8.0) == expected
    assert not uses_gpu(Workers(device="auto"), num_gpus=0.0)
    with raises(ConfigError, "gpus_not_used", "workers.num_processes", 9):
        uses_gpu(Workers(device="auto", num_processes=9), num_gpus=8.0)


def test_metrics_of_an_epoch_are_exported_and_running_ends_at_0():
    values: dict[tuple[str, ...], float] = {}

    class Gauge:
        """Sets `values` by name and label; like Ray's, it refuses undeclared labels."""

        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]):
            self._name, self._tag_keys = name.removeprefix("xrec_train_"), tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tags.keys() == set(self._tag_keys)
            assert tags.pop("job") == "a-job"
            values[self._name, *tags.values()] = value

    metrics = TrainingMetrics("a-job", clock=lambda: 1000.0, gauge=Gauge)
    expected = {("running",): 1, ("reported_timestamp_seconds",): 1000.0}
    with suppress(KeyboardInterrupt), metrics.running():
        assert values == expected
        epoch = {"epoch": 2, "seconds": 12.0}
        metrics.record({**epoch, "step": 4, "train_loss": 3.5, "validation_loss": 3.2})
        expected |= {("epoch",): 2, ("epoch_seconds",): 12.0, ("step",): 4}
        expected |= {("loss", "train"): 3.5, ("loss", "validation"): 3.2}
        assert values == expected
        metrics.record({**epoch, "loss": 0.4, "time": 0.0, "ndcg@20": 0.2})
        raise KeyboardInterrupt
    expected |= {("running",): 0, ("loss", "train"): 0.4, ("score", "ndcg@20"): 0.2}
    assert values == expected
