"""The methods by name, each from the same data and the same budget to snapshots of its model."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.graph_closed_forms import fit_ease, fit_svd
from benchmarks.graph_data import BenchmarkData, Snapshot
from benchmarks.graph_libraries import fit_als, fit_implicit_bpr, train_pyg
from benchmarks.graph_ours import read_config, run_job, train_ours
from benchmarks.graph_recipe import train_fused
from xrec.config.graph import PretrainGraphConfig

EASE_REGULARIZATION = 200.0  # within the range of the paper, not tuned here


@dataclass(frozen=True)
class Budget:
    """How long and how large; `config` is the YAML that ours takes its settings from (none: the defaults)."""

    embedding_dim: int
    seed: int
    threads: int
    seconds: float
    epochs_per_snapshot: int
    folder: Path
    config: Path | None
    dataset: str

    @property
    def common(self) -> dict[str, Any]:
        """What every method takes."""
        return {"embedding_dim": self.embedding_dim, "seed": self.seed}

    def ours(self) -> PretrainGraphConfig:
        """The job's config that ours is trained by."""
        return read_config(
            self.config, embedding_dim=self.embedding_dim, workspace=str(self.folder.resolve())
        )

    def checkpoint(self, data: BenchmarkData) -> Path:
        """Where the recipe is carried on from."""
        return self.folder / "checkpoints" / f"recipe-{data.name}-{self.embedding_dim}.pt"


@dataclass(frozen=True)
class ALSSettings:
    """Best validation Recall@20 on Yelp, D = 64, of 15 tried: regularization 1 to 100, alpha 1 to 80, 15 and 30 iterations."""

    regularization: float = 10.0
    alpha: float = 40.0
    num_iterations: int = 15


@dataclass(frozen=True)
class BPRSettings:
    """Best validation Recall@20 on Yelp, D = 64, of 4 tried; the others: (0.05, 0.01, 100), (0.01, 0.01, 100), (0.02, 0.1, 60)."""

    learning_rate: float = 0.2
    regularization: float = 0.002
    num_iterations: int = 100


@dataclass(frozen=True)
class Method:
    """`run` yields snapshots; `settings` are what it was set to, as the results state it."""

    run: Callable[[BenchmarkData, Budget], Iterator[Snapshot]]
    settings: dict[str, Any]
    carries_on: bool = False


def _recipe(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return train_fused(
        data,
        **budget.common,
        budget_seconds=budget.seconds,
        epochs_per_snapshot=budget.epochs_per_snapshot,
        checkpoint=budget.checkpoint(data),
    )


def _pyg(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return train_pyg(
        data,
        **budget.common,
        budget_seconds=budget.seconds,
        epochs_per_snapshot=budget.epochs_per_snapshot,
    )


def _ours(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return train_ours(data, config=budget.ours(), budget_seconds=budget.seconds)


def _ours_job(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return run_job(
        config=budget.ours(),
        dataset=budget.dataset,
        folder=budget.folder / "jobs" / f"{data.name}-{budget.embedding_dim}",
    )


def _als(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return fit_als(data, **budget.common, num_threads=budget.threads, **asdict(ALSSettings()))


def _bpr(data: BenchmarkData, budget: Budget) -> Iterator[Snapshot]:
    return fit_implicit_bpr(
        data, **budget.common, num_threads=budget.threads, **asdict(BPRSettings())
    )


def _ease(data: BenchmarkData, _budget: Budget) -> Iterator[Snapshot]:
    return fit_ease(data, regularization=EASE_REGULARIZATION)


def _svd(exponent: float) -> Method:
    return Method(
        lambda data, budget: fit_svd(data, **budget.common, exponent=exponent),
        {"exponent": exponent},
    )


METHODS = {
    "recipe": Method(
        _recipe,
        {"layers": 4, "batch_size": 1024, "learning_rate": 1e-3, "weight_decay": 1e-6},
        carries_on=True,
    ),
    "pyg-lightgcn": Method(
        _pyg, {"layers": 2, "batch_size": 8192, "learning_rate": 1e-3, "lambda_reg": 1e-4}
    ),
    "implicit-als": Method(_als, asdict(ALSSettings())),
    "implicit-bpr": Method(_bpr, asdict(BPRSettings())),
    "ease": Method(_ease, {"regularization": EASE_REGULARIZATION}),
    "svd": _svd(0.0),
    "svd-normalized": _svd(0.5),
    "ours": Method(_ours, {}),
    "ours-job": Method(_ours_job, {}),
}


def settings_of(name: str, budget: Budget) -> dict[str, Any]:
    """What the method `name` is set to, for the results."""
    if name.startswith("ours"):
        return budget.ours().model_dump(mode="json", include={"model", "training"})
    return METHODS[name].settings
