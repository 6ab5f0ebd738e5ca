"""The whole pipeline, once a session: every job on a tiny town, every input and output on s3://."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

import jobs.backfill
import jobs.build_sample_llm
import jobs.evaluate
import jobs.prepare
import jobs.pretrain_graph
import jobs.project_run
import jobs.recommend
import jobs.train_adapter
from tests.project_file import write_project
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.data import BuildSampleLLMConfig, PrepareConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.jobs import JOBS
from xrec.config.shared import JobConfig, StorageConfig
from xrec.storage import Location, Manifest, open_location

ConfigT = TypeVar("ConfigT", bound=JobConfig)

_PROMPT = {
    "instruction": "Why would this user enjoy this place?",
    "user": "User: {user} {user_profile}",
    "item": "Place: {item} {item_title}. {item_profile}",
}
_SCALING = {"num_workers": 2, "device": "cpu", "max_failures": 0}
DECODING = {
    "max_new_tokens": 8,
    "text": {"max_words": None, "refuses_repetition": False},
}
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
    # One worker: what two compute is tested in tests/xrec/train, and each costs seconds to start.
    PretrainGraphConfig: {
        "model": {"embedding_dim": 8, "num_layers": 1},
        "training": {"num_epochs": 2, "steps_per_epoch": 4},
        "folds": 2,
        "scaling": {**_SCALING, "num_workers": 1},
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
        "scaling": _SCALING,
    },
    BackfillConfig: {
        "pairs": {"kind": "split", "split": "test"},
        "rows_per_chunk": 8,
        "max_failed_share": 0.5,
        "decoding": DECODING,
        "actors": {"num_actors": 2, "device": "cpu"},
    },
    EvaluateConfig: {
        "encoder": None,
        "max_shuffled_generations": 8,
        "decoding": DECODING,
        "device": "cpu",
    },
}
PIPELINE_JOBS = tuple(job for job, config in JOBS.items() if config in _VALUES)
_SMALL_LLM = {
    "_NUM_COPY_STEPS": 0,
    "_BATCH_SIZE": 8,
    "_HIDDEN_SIZE": 32,
    "_NUM_LAYERS": 2,
    "_VOCAB_SIZE": 400,
    "_LEARNING_RATE": 1e-2,
}
_WITH_LLM = (TrainAdapterConfig, BackfillConfig, EvaluateConfig)


@dataclass(frozen=True)
class Pipeline:
    """A workspace on s3://, its jobs' configs, and the manifests of what they made, by kind."""

    workspace: str
    storage: StorageConfig
    cache_dir: str
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def config(self, config_type: type[ConfigT], **values: Any) -> ConfigT:
        """The pipeline's config of a job, with `values` in place of its own."""
        llm = (
            {"llm": {"model": f"{self.workspace}/llm", "cache_dir": self.cache_dir}}
            if config_type in _WITH_LLM
            else {}
        )
        return parse_config(
            config_type,
            {
                "workspace": self.workspace,
                "storage": self.storage,
                **llm,
                **_VALUES[config_type],
                **values,
            },
        )

    def location(self, name: str) -> Location:
        """What lies at `name` in the workspace."""
        return open_location(f"{self.workspace}/{name}", self.storage)

    @property
    def wrong_storage(self) -> StorageConfig:
        """The storage with a secret key that it does not take."""
        wrong = {"secret_access_key": SecretStr("not the secret")}
        return self.storage.model_copy(update=wrong)

    def copy_of(self, name: str, target: str) -> Location:
        """An artifact, copied within the workspace, for a test that changes it."""
        source, copy = self.location(name), self.location(target)
        for file in source.files():
            (copy / file).write_bytes((source / file).read_bytes())
        return copy


@pytest.fixture(scope="session")
def pipeline(ray_cluster, s3, tmp_path_factory):
    """All six jobs, run once; credentials by the configs' storage section only."""
    cache = tmp_path_factory.mktemp("llm-cache")
    made = Pipeline(f"{s3.new_bucket()}/town", s3.storage, str(cache))
    steps: list[tuple[Callable[[Any], Manifest], type[JobConfig]]] = [
        (jobs.prepare.run, PrepareConfig),
        (jobs.build_sample_llm.run, BuildSampleLLMConfig),
        (jobs.pretrain_graph.run, PretrainGraphConfig),
        (jobs.train_adapter.run, TrainAdapterConfig),
        (jobs.backfill.run, BackfillConfig),
        (jobs.evaluate.run, EvaluateConfig),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SMALL_LLM.items():
            patch.setattr(f"xrec.sample.language_model.{name}", value)
        for run, config_type in steps:
            manifest = run(made.config(config_type))
            made.manifests[manifest.kind] = manifest
    yield made
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
def without_work(monkeypatch):
    """No job may ask for Ray, nor load a model to evaluate with."""

    def work(*arguments: object, **settings: object) -> None:
        raise AssertionError("the job started to work")

    for module in (jobs.backfill, jobs.recommend, jobs.train_adapter, jobs.project_run):
        monkeypatch.setattr(module, "ensure_ray", work)
    monkeypatch.setattr(jobs.evaluate, "load_explainer", work)


@pytest.fixture
def config_file(pipeline, tmp_path):
    """Writes a config to a project file, credentials included, for the command line."""

    def write(config: JobConfig) -> Path:
        keys = {
            "access_key_id": config.storage.access_key_id,
            "secret_access_key": config.storage.secret_access_key,
        }
        secrets = {name: key.get_secret_value() for name, key in keys.items() if key}
        endpoint = {"endpoint_url": config.storage.endpoint_url, "max_attempts": 2}
        return write_project(tmp_path / "config.yaml", config, storage={**endpoint, **secrets})

    return write
