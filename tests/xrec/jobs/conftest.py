"""The whole pipeline, once a session: every job on a tiny town, every input and output on s3://."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from tests.world.here import map_here, pool_here
from tests.world.shop import with_uris, write_project
from tests.world.store import copy_files
from tests.xrec.train.worker import fit_here
from xrec.backfill import driver as _driver  # noqa: F401 - before its imports are replaced
from xrec.config import (
    CONFIG_TYPES,
    BackfillConfig,
    BuildSampleLLMConfig,
    EvaluateConfig,
    JobConfig,
    PrepareConfig,
    PretrainGraphConfig,
    StorageConfig,
    TrainAdapterConfig,
    parse_config,
)
from xrec.jobs import job_named
from xrec.storage import Location, Manifest, open_location
from xrec.train import example_shards as _shards  # noqa: F401 - likewise

ConfigT = TypeVar("ConfigT", bound=JobConfig)

_PROMPT = {
    "instruction": "Why would this user enjoy this place?",
    "user": "User: {user} {user_profile}",
    "item": "Place: {item} {item_title}. {item_profile}",
}
# One process each: what two do is tested elsewhere. Training is in the test's own process.
_ONE_WORKER = {"num_processes": 1, "device": "cpu", "max_failures": 0}
DECODING = {"max_new_tokens": 8, "text": {"max_words": None, "refuses_repetition": False}}
_VALUES: dict[type[JobConfig], dict[str, Any]] = {
    PrepareConfig: {
        "source": {
            "kind": "sample",
            "num_users": 40,
            "num_items": 20,
            "interactions_per_user": 8,
            "explanations_per_user": 3,
        }
    },
    BuildSampleLLMConfig: {"num_steps": 60, "prompt": _PROMPT},
    PretrainGraphConfig: {
        "model": {"embedding_dim": 8, "num_layers": 1},
        "training": {"num_epochs": 2, "steps_per_epoch": 4},
        "folds": 2,
        "workers": _ONE_WORKER,
    },
    TrainAdapterConfig: {
        "prompt": _PROMPT,
        "model": {"num_experts": 2},
        "training": {
            "num_epochs": 2,
            "max_steps": 4,
            "global_batch_size": 32,
            "micro_batch_size": 16,
        },
        "workers": _ONE_WORKER,
    },
    BackfillConfig: {
        "pairs": {"kind": "split", "split": "test"},
        "rows_per_chunk": 8,
        "max_failed_share": 0.5,
        "gate": None,
        "decoding": DECODING,
        "actors": {"num_processes": 1, "device": "cpu"},
    },
    EvaluateConfig: {"encoder": None, "decoding": DECODING},
}
PIPELINE_JOBS = tuple(job for job, config in CONFIG_TYPES.items() if config in _VALUES)
_SMALL_LLM = {
    "NUM_COPY_STEPS": 0,
    "BATCH_SIZE": 8,
    "HIDDEN_SIZE": 32,
    "NUM_LAYERS": 2,
    "VOCAB_SIZE": 400,
    "LEARNING_RATE": 1e-2,
}
_WITH_LLM = (TrainAdapterConfig, BackfillConfig, EvaluateConfig)


@dataclass(frozen=True)
class Pipeline:
    """A workspace on s3://, its jobs' configs, and the manifests of what they made, by kind."""

    workspace: str
    storage: StorageConfig
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def config(self, config_type: type[ConfigT], **values: Any) -> ConfigT:
        llm = {"llm": {"model": f"{self.workspace}/llm"}} if config_type in _WITH_LLM else {}
        shared = {"workspace": self.workspace, "storage": self.storage, **llm}
        return parse_config(
            config_type, with_uris({**shared, **_VALUES.get(config_type, {}), **values})
        )

    def location(self, name: str) -> Location:
        return open_location(f"{self.workspace}/{name}", self.storage)

    def state(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Return when each file of an artifact was written, and the hash of its content."""
        found = self.location(name).fs.find(self.location(name).path, detail=True)
        return {path: (info["LastModified"], info["ETag"]) for path, info in found.items()}

    @property
    def wrong_storage(self) -> StorageConfig:
        wrong = {"secret_access_key": SecretStr("not the secret")}
        return self.storage.model_copy(update=wrong)

    def copy_of(self, name: str, target: str) -> Location:
        return copy_files(self.location(name), self.location(target))


@pytest.fixture(scope="session")
def pipeline(s3):
    """All six jobs, run once in this process, with credentials in the configs' storage only."""
    made = Pipeline(f"{s3.new_bucket()}/town", s3.storage)
    with pytest.MonkeyPatch.context() as patch:
        train_in_process(patch)
        work_here(patch)
        for name, value in _SMALL_LLM.items():
            patch.setattr(f"xrec.sample.language_model.{name}", value)
        for name in PIPELINE_JOBS:
            manifest = job_named(name).run(made.config(CONFIG_TYPES[name]))
            made.manifests[manifest.kind] = manifest
    return made


def train_in_process(patch: pytest.MonkeyPatch) -> None:
    """Train in this process, without Ray."""
    for module in ("graph", "adapter"):
        patch.setattr(f"xrec.train.{module}.fit", fit_here)


def work_here(patch: pytest.MonkeyPatch) -> None:
    """Do the work of bulk jobs in this process."""
    for pool in ("processes.RayPool", "backfill.driver.RayPool"):
        patch.setattr(f"xrec.{pool}", pool_here)
    patch.setattr("xrec.backfill.driver.gpus_each", lambda *arguments: 0)
    patch.setattr("xrec.processes.map_in_processes", map_here)
    for name in ("ensure_ray", "ready_cluster"):
        patch.setattr(f"xrec.cluster.{name}", lambda *arguments, **options: nullcontext())


@pytest.fixture
def without_work(monkeypatch):
    """No job may ask for Ray, nor load a model to evaluate with."""
    work = Mock(side_effect=AssertionError("the job started to work"))
    for name in ("xrec.cluster.ready_cluster", "xrec.cluster.ensure_ray"):
        monkeypatch.setattr(name, work)
    monkeypatch.setattr("xrec.evaluate.run.load_explainer", work)


@pytest.fixture
def config_file(s3, tmp_path):
    """A function that writes a config to a project file for the command line, with credentials."""
    return lambda config: write_project(tmp_path / "config.yaml", config, storage=s3.keys)
