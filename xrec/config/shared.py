"""What several jobs share: artifacts, storage, Ray cluster, workers."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from xrec.config.base import Config
from xrec.config.decoding import DecodingConfig
from xrec.config.llm import EngineConfig, LLMConfig

Device = Literal["auto", "cpu", "cuda"]
Split = Literal["train", "validation", "test"]

WORKSPACE = "workspace:"
"""What begins the URI of a folder in the workspace, wherever that lies."""


class StorageConfig(Config):
    """How s3:// URIs are reached; what is not given comes from the usual AWS variables."""

    endpoint_url: str | None = None
    """Endpoint of an S3 store other than AWS, e.g. http://127.0.0.1:8333."""
    region: str | None = None
    """Region of the S3 store."""
    access_key_id: SecretStr | None = None
    """Access key of the S3 store; safer in AWS_ACCESS_KEY_ID."""
    secret_access_key: SecretStr | None = None
    """Secret key of the S3 store; safer in AWS_SECRET_ACCESS_KEY."""
    max_attempts: int = Field(5, ge=1)
    """How often a request is tried in all."""

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> "StorageConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key must be given together")
        return self


class RayConfig(Config):
    """The Ray cluster that the job runs on."""

    address: str | None = None
    """Address of the cluster. If null, RAY_ADDRESS, or one is started here."""
    num_cpus: int | None = Field(None, ge=1)
    """Logical CPUs of a cluster that is started here. If null, the machine's."""


class ScalingConfig(Config):
    """The workers of a training job, a process each."""

    num_workers: int = Field(2, ge=1)
    """Number of data-parallel workers."""
    min_workers: int | None = Field(None, ge=1)
    """Fewest workers that training goes on with. If null, num_workers."""
    cpus_per_worker: int = Field(1, ge=1)
    """Logical CPUs, and torch threads, of each."""
    device: Device = "auto"
    """What each computes on; auto is a GPU each if there are enough."""
    max_failures: int = Field(1, ge=0)
    """How often lost workers are replaced before the job fails."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ScalingConfig":
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers must be at most num_workers = {self.num_workers}, "
                f"saw {self.min_workers}"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """The number of workers that training may go down to."""
        return self.min_workers or self.num_workers


class JobConfig(Config):
    """What every job has: a place for its artifacts, and the way there."""

    workspace: str
    """Folder of all artifacts, local or s3://bucket/prefix; workspace:NAME in other keys is the
    folder NAME in it."""
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="before")
    @classmethod
    def _find_in_workspace(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("workspace"), str):
            return values
        return _found(values, values["workspace"].rstrip("/"))

    def artifact(self, name: str) -> str:
        """URI of the artifact `name`: its own key if given, else `<workspace>/<name>`."""
        return getattr(self, name, None) or f"{self.workspace.rstrip('/')}/{name}"


def _found(value: Any, workspace: str) -> Any:
    """The value with the URI of the folder in place of `workspace:NAME`."""
    if isinstance(value, Mapping):
        return {key: _found(each, workspace) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_found(each, workspace) for each in value]
    if isinstance(value, str) and value.startswith(WORKSPACE):
        return f"{workspace}/{value.removeprefix(WORKSPACE)}"
    return value


def artifact_uri(name: str) -> Any:
    """The key of an artifact that a job makes or reads."""
    return Field(None, description=f"URI of the {name}; if null, <workspace>/{name}.")


class DatasetJobConfig(JobConfig):
    """A job that makes or reads the dataset."""

    dataset: str | None = artifact_uri("dataset")


class GraphJobConfig(DatasetJobConfig):
    """A job that makes or reads the graph."""

    graph: str | None = artifact_uri("graph")


class AspectsJobConfig(GraphJobConfig):
    """A job that needs the score of aspects if `prompt.aspects` asks for some."""

    aspects: str | None = artifact_uri("aspects")


class AdapterJobConfig(AspectsJobConfig):
    """A job that makes or uses an adapter."""

    adapter: str | None = artifact_uri("adapter")
    llm: LLMConfig
    """The language model that the adapter is for."""


class TextsJobConfig(JobConfig):
    """A job that generates texts; these compare if `decoding` is the same in all such jobs."""

    decoding: DecodingConfig = DecodingConfig()
    engine: EngineConfig = EngineConfig()


class ExplanationsJobConfig(TextsJobConfig, AdapterJobConfig):
    """A job that makes or reads explanations, and generates some."""

    explanations: str | None = artifact_uri("explanations")


class RayJobConfig(JobConfig):
    """A job that runs on a Ray cluster."""

    ray: RayConfig = RayConfig()


class TrainingJobConfig(RayJobConfig):
    """A job of data-parallel workers."""

    scaling: ScalingConfig = ScalingConfig()
    tracker: Literal["tensorboard", "mlflow", "wandb"] | None = None
    """An experiment tracker that gets the settings and each epoch's figures. TensorBoard's files
    are at <workspace>/tensorboard; the others are told where by their own variables."""
