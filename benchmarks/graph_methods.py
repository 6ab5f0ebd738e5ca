"""The methods by name; each makes snapshots of its model from the same data and budget."""

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

EASE_REGULARIZATION = 200.0  # within the paper's range, and not tuned here


@dataclass(frozen=True)
class Budget:
    """Time and sizes of a run.

    `config` is the project file with the settings of ours; if it is None, they are the defaults.
    """

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
        """The arguments that every method takes."""
        return {"embedding_dim": self.embedding_dim, "seed": self.seed}

    def ours(self) -> PretrainGraphConfig:
        """Return the job's config for ours."""
        return read_config(
            self.config, embedding_dim=self.embedding_dim, workspace=str(self.folder.resolve())
        )

    def checkpoint(self, data: BenchmarkData) -> Path:
        """Return the file from which the recipe continues."""
        return self.folder / "checkpoints" / f"recipe-{data.name}-{self.embedding_dim}.pt"


@dataclass(frozen=True)
class ALSSettings:
    """The settings with the best validation Recall@20 on Yelp with D = 64, of 15 tried.

    Tried were regularization 1 to 100, alpha 1 to 80, and 15 and 30 iterations.
    """

    regularization: float = 10.0
    alpha: float = 40.0
    num_iterations: int = 15


@dataclass(frozen=True)
class BPRSettings:
    """The settings with the best validation Recall@20 on Yelp with D = 64, of 4 tried.

    The others were (0.05, 0.01, 100), (0.01, 0.01, 100) and (0.02, 0.1, 60).
    """

    learning_rate: float = 0.2
    regularization: float = 0.002
    num_iterations: int = 100


@dataclass(frozen=True)
class Method:
    """A method: `run` yields snapshots, and `settings` are stated in the results."""

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
    """Return the settings of the method `name` as the results state them."""
    if name.startswith("ours"):
        return budget.ours().model_dump(mode="json", include={"model", "training"})
    return METHODS[name].settings
