"""Sections that several jobs share: storage, Ray cluster, workers, new users and items."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from xrec.config.base import Config

Device = Literal["auto", "cpu", "cuda"]
Split = Literal["train", "validation", "test"]

_IN_WORKSPACE = "workspace:"


class StorageConfig(Config):
    """How s3:// URIs are reached.

    What is not given comes from the usual AWS variables and files.
    """

    endpoint_url: str | None = Field(
        None, description="Endpoint of an S3 store other than AWS, e.g. http://127.0.0.1:8333."
    )
    region: str | None = Field(None, description="Region of the S3 store.")
    access_key_id: SecretStr | None = Field(
        None,
        description="Access key of the S3 store. It is safer in the variable "
        "AWS_ACCESS_KEY_ID than in a file.",
    )
    secret_access_key: SecretStr | None = Field(
        None,
        description="Secret key of the S3 store. It is safer in the variable "
        "AWS_SECRET_ACCESS_KEY than in a file.",
    )
    read_timeout_seconds: float = Field(
        60.0, gt=0, description="How long an answer of the endpoint may take, in seconds."
    )
    max_attempts: int = Field(
        5,
        ge=1,
        description="How often one request is tried, the first time included. The S3 client "
        "waits between the tries.",
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
        description="Address of the cluster. If null, it is the variable RAY_ADDRESS; if that is "
        "not set, a cluster is started on this machine.",
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="Logical CPUs of a cluster that is started here. If null, there are as "
        "many as this machine has cores, and at least 2.",
    )


class ScalingConfig(Config):
    """The workers of a training job.

    Each worker is one process, with one torch thread for each of its CPUs.
    """

    num_workers: int = Field(2, ge=1, description="Number of data-parallel workers.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Fewest workers that the training goes on with if the cluster has no room "
        "for num_workers; with fewer it waits. If null, it is num_workers.",
    )
    cpus_per_worker: int = Field(
        1, ge=1, description="Logical CPUs, and torch threads, of each worker."
    )
    device: Device = Field(
        "auto",
        description="What each worker computes on. With auto, each worker has a GPU if the "
        "cluster has enough of them, else they use CPUs.",
    )
    max_failures: int = Field(
        1, ge=0, description="How often lost workers are replaced before the job fails."
    )

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


def input_uri(name: str, condition: str = "") -> Any:
    """The field of the artifact `name` that a job reads, if need be on a condition."""
    read = f"URI of the input, which is read if {condition}" if condition else "URI of the input"
    return Field(None, description=f"{read}; if null, it is <workspace>/{name}.")


def output_uri(name: str) -> Any:
    """The field of the artifact `name` that a job makes."""
    own = " workspace:NAME is the folder NAME in the workspace." if name == "explanations" else ""
    return Field(None, description=f"URI of the output; if null, it is <workspace>/{name}.{own}")


class JobConfig(Config):
    """What every job has: a place for its artifacts, and the way there."""

    workspace: str = Field(
        description="URI (a local folder or s3://bucket/prefix) of the folder that holds the "
        "artifacts of the project."
    )
    storage: StorageConfig = Field(
        default_factory=StorageConfig, description="How s3:// URIs are reached."
    )

    @model_validator(mode="before")
    @classmethod
    def _find_in_workspace(cls, values: Any) -> Any:
        """`workspace:NAME` is the folder NAME in the workspace."""
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
    if isinstance(value, str) and value.startswith(_IN_WORKSPACE):
        return f"{workspace}/{value.removeprefix(_IN_WORKSPACE)}"
    return value


class ColdStartConfig(Config):
    """What came after the graph was trained: new users and items, and new texts of known ones.

    The vectors of the new ones are computed from their interactions (fold-in).
    """

    interactions: str | None = Field(
        None,
        description="Parquet file or folder with columns user_id and item_id. The dataset "
        "must know the user or the item of each row. If null, no user and no item "
        "is new.",
    )
    users: str | None = Field(
        None,
        description="Table with columns user_id and profile. It replaces the profiles of "
        "known users too. If null, new users have no profile.",
    )
    items: str | None = Field(
        None,
        description="Table with columns item_id, title and profile. It replaces the texts of "
        "known items too. If null, new items have neither.",
    )
