"""Sections that several jobs share: where artifacts lie, the store, the Ray cluster, the workers, new users and items."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from xrec.config.base import Config

Device = Literal["auto", "cpu", "cuda"]
Split = Literal["train", "validation", "test"]

_IN_WORKSPACE = "workspace:"


class StorageConfig(Config):
    """How s3:// URIs are reached. Whatever is not given comes from the usual AWS variables and files."""

    endpoint_url: str | None = Field(
        None, description="S3 endpoint, for stores other than AWS, e.g. http://127.0.0.1:8333."
    )
    region: str | None = Field(None, description="S3 region.")
    access_key_id: SecretStr | None = Field(
        None, description="Access key; better in AWS_ACCESS_KEY_ID than in a file."
    )
    secret_access_key: SecretStr | None = Field(
        None, description="Secret key; better in AWS_SECRET_ACCESS_KEY than in a file."
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, description="Time to wait for a connection to the endpoint."
    )
    read_timeout_seconds: float = Field(
        60.0, gt=0, description="Time to wait for an answer of the endpoint."
    )
    max_attempts: int = Field(
        5,
        ge=1,
        description="Tries of one request, the first included, with the client's own backoff.",
    )

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> "StorageConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key must be given together")
        return self


class RayConfig(Config):
    """The Ray cluster that the job runs on."""

    address: str | None = Field(
        None,
        description="Cluster address; none: RAY_ADDRESS if set, else a cluster is started on this machine.",
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="Logical CPUs of a cluster started here; none: as many as there are cores, at least 2.",
    )


class ScalingConfig(Config):
    """The workers of a training job; one process each, one torch thread a CPU."""

    num_workers: int = Field(2, ge=1, description="Data-parallel workers.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Elastic: train on so few workers where the cluster has no place for num_workers, and wait below; none: num_workers.",
    )
    cpus_per_worker: int = Field(
        1, ge=1, description="Logical CPUs, and torch threads, of each worker."
    )
    device: Device = Field(
        "auto", description="auto: a GPU a worker where the cluster has enough, else CPU."
    )
    max_failures: int = Field(
        1, ge=0, description="How often lost workers are replaced before the job fails."
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ScalingConfig":
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers must be at most num_workers = {self.num_workers}, saw {self.min_workers}"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """The number of workers that training may go down to."""
        return self.min_workers or self.num_workers


class JobConfig(Config):
    """What every job has: a place for its artifacts, and the way there."""

    workspace: str = Field(
        description="URI (local folder or s3://bucket/prefix) that holds the artifacts of one pipeline."
    )
    storage: StorageConfig = Field(
        default_factory=StorageConfig, description="How s3:// is reached."
    )

    @model_validator(mode="before")
    @classmethod
    def _find_model_in_workspace(cls, values: Any) -> Any:
        """`llm.model: workspace:NAME` is the folder NAME in the workspace."""
        if not isinstance(values, Mapping) or not isinstance(values.get("llm"), Mapping):
            return values
        model, workspace = values["llm"].get("model"), values.get("workspace")
        if not (isinstance(model, str) and model.startswith(_IN_WORKSPACE)):
            return values
        if not isinstance(workspace, str):
            return values
        name = model.removeprefix(_IN_WORKSPACE)
        return {**values, "llm": {**values["llm"], "model": f"{workspace.rstrip('/')}/{name}"}}

    def artifact(self, name: str) -> str:
        """URI of the artifact `name`: its own key if given, else `<workspace>/<name>`."""
        return getattr(self, name, None) or f"{self.workspace.rstrip('/')}/{name}"


class ColdStartConfig(Config):
    """What came after the graph was trained: new users and items, whose vectors are computed (fold-in), and new texts of known ones."""

    interactions: str | None = Field(
        None,
        description="Parquet file or folder with user_id and item_id, one side of each row known to the dataset; none: nobody is new.",
    )
    users: str | None = Field(
        None,
        description="Table with columns user_id and profile; none: the new users have no profile. A known user's profile is replaced by it.",
    )
    items: str | None = Field(
        None,
        description="Table with columns item_id, title and profile; none: a new item's id is its title. A known item's texts are replaced by it.",
    )
