"""fit on a real Ray cluster: reports, best checkpoint, errors of workers, two ranks in one process group."""

import os
from pathlib import Path
from typing import Any

import pytest

from xrec.config import ScalingConfig
from xrec.errors import ClusterError, DataError, TrainingError
from xrec.storage import Location, open_location
from xrec.train.ray_loop import TrainingOutcome, fit

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def storage(tmp_path: Path) -> Location:
    return open_location(str(tmp_path))


def run(loop: Any, storage: Location, config: dict[str, Any] | None = None, **settings: Any) -> TrainingOutcome:
    scaling = ScalingConfig(**{"num_workers": 1, "device": "cpu", "max_failures": 0, **settings.pop("scaling", {})})
    return fit(loop, config or {}, scaling=scaling, storage=storage, name="run", score="score", mode="max", **settings)


def test_fit_two_workers_reports_all_epochs_and_keeps_best_files(storage: Location) -> None:
    def loop(config: dict[str, Any]) -> None:
        import torch

        from xrec.train.ray_loop import initialize_engine, rank, report, worker_device, world_size

        torch.manual_seed(0)
        module = torch.nn.Linear(2, 1, bias=False).to(worker_device())
        settings = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True, "zero_optimization": {"stage": 1}}
        engine = initialize_engine(module, torch.optim.SGD(module.parameters(), lr=1.0), settings)
        before = module.weight.detach().clone()
        engine.backward(engine(torch.full((1, 2), float(rank()))).sum())
        engine.step()
        moved = (before - module.weight).detach().flatten().tolist()  # the mean of the ranks' gradients 0 and 1
        for epoch, score in enumerate(config["scores"], start=1):
            metrics = {"epoch": epoch, "score": score, "moved": moved, "world_size": world_size(), "threads": torch.get_num_threads()}
            report(metrics, {"epoch.txt": f"{epoch}".encode()})

    seen: list[tuple[int, float]] = []
    outcome = run(
        loop, storage, {"scores": [0.1, 0.9, 0.3]}, scaling={"num_workers": 2}, on_report=lambda n, metrics: seen.append((n, metrics["score"]))
    )

    assert seen == [(1, 0.1), (2, 0.9), (3, 0.3)]
    assert [entry["epoch"] for entry in outcome.history] == [1, 2, 3]
    assert outcome.best["epoch"] == 2
    assert outcome.read_checkpoint_file("epoch.txt") == b"2"
    assert outcome.best["moved"] == pytest.approx([0.5, 0.5])
    assert outcome.best["world_size"] == 2
    assert outcome.best["threads"] == 1
    assert "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" not in os.environ


def test_fit_xrec_error_in_worker_is_raised_as_it_is_without_a_retry(storage: Location, tmp_path: Path) -> None:
    def loop(config: dict[str, Any]) -> None:
        from pathlib import Path

        from xrec.errors import DataError

        with Path(config["log"]).open("a") as log:
            log.write("started\n")
        raise DataError("graph is empty; expected edges")

    with pytest.raises(DataError, match=r"^graph is empty; expected edges$"):
        run(loop, storage, {"log": str(tmp_path / "log")}, scaling={"max_failures": 3})
    assert (tmp_path / "log").read_text() == "started\n"


def test_fit_worker_lost_is_replaced_and_other_error_is_a_training_error(storage: Location, tmp_path: Path) -> None:
    def loop(config: dict[str, Any]) -> None:
        import os
        from pathlib import Path

        from xrec.train.ray_loop import report

        marker = Path(config["marker"])
        if not marker.exists():
            marker.touch()
            report({"epoch": 1, "score": 0.0})
            os._exit(1)
        raise RuntimeError("something\nelse")

    with pytest.raises(TrainingError, match=r"worker 0 .*RuntimeError: something$"):
        run(loop, storage, {"marker": str(tmp_path / "marker")}, scaling={"max_failures": 1})


@pytest.mark.slow
def test_fit_resumed_goes_on_from_the_files_of_all_workers(storage: Location) -> None:
    def loop(config: dict[str, Any]) -> None:
        from xrec.train.worker_loop import last_checkpoint, rank, report

        with last_checkpoint() as folder:
            there = {file.name: file.read_text() for file in sorted(folder.iterdir())} if folder else {}
        for epoch in config["epochs"]:
            report({"epoch": epoch, "there": there}, {f"rank-{rank()}": f"epoch {epoch}".encode()}, every_worker=True)

    def fit_epochs(epochs: list[int], resume: bool) -> TrainingOutcome:
        scaling = ScalingConfig(num_workers=2, device="cpu", max_failures=0)
        return fit(loop, {"epochs": epochs}, scaling=scaling, storage=storage, name="run", resume=resume)

    first = fit_epochs([1, 2], resume=True)
    assert first.best == {"epoch": 2, "there": {}}
    second = fit_epochs([3], resume=True)
    assert second.best == {"epoch": 3, "there": {"rank-0": "epoch 2", "rank-1": "epoch 2"}}
    assert second.read_checkpoint_file("rank-1") == b"epoch 3"
    assert fit_epochs([], resume=True).best["epoch"] == 3
    assert fit_epochs([1], resume=False).best == {"epoch": 1, "there": {}}


def test_fit_more_workers_than_cpus_raises_cluster_error(storage: Location) -> None:
    with pytest.raises(ClusterError, match="64 workers"):
        run(lambda config: None, storage, scaling={"num_workers": 64})


def test_fit_gpu_asked_for_and_missing_raises_cluster_error(storage: Location) -> None:
    with pytest.raises(ClusterError, match="GPU"):
        run(lambda config: None, storage, scaling={"device": "cuda"})
