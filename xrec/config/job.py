"""What jobs share: their artifacts and storage, the Ray cluster, and processes on it."""

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic import Field, SecretStr, model_validator

from xrec.config.base import Config, Uri, absolute

Device = Literal["auto", "cpu", "cuda"]
Split = Literal["train", "validation", "test"]

WORKSPACE = "workspace:"
"""The prefix of a URI that is relative to the workspace."""


class StorageConfig(Config):
    """Access to s3:// URIs; keys that are not given default to the usual AWS variables."""

    endpoint_url: str | None = None
    """Endpoint of an S3 store other than AWS, for example http://127.0.0.1:8333."""
    region: str | None = None
    """Region of the S3 store."""
    access_key_id: SecretStr | None = None
    """Access key of the S3 store; setting AWS_ACCESS_KEY_ID instead is safer."""
    secret_access_key: SecretStr | None = None
    """Secret key of the S3 store; setting AWS_SECRET_ACCESS_KEY instead is safer."""

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> "StorageConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key must be given together")
        return self


class RayConfig(Config):
    """The Ray cluster that the job runs on."""

    address: str | None = None
    """Address of the cluster. If null, RAY_ADDRESS, or else a new cluster on this machine."""
    num_cpus: int | None = Field(None, ge=1)
    """Number of logical CPUs of a new cluster on this machine. If null, all of the machine's."""


class Processes(Config):
    """Processes of one kind."""

    num_processes: int = Field(2, ge=1)
    """Maximum number of processes."""
    min_processes: int | None = Field(None, ge=1)
    """Minimum number of processes: idle actors above it stop, and training continues as long as
    this many workers remain. If null, num_processes."""
    cpus: int = Field(1, ge=1)
    """Logical CPUs, and torch threads, of each process."""
    device: Device = "auto"
    """Device of each process; auto is one GPU per process if there are enough, else the CPU."""

    @model_validator(mode="after")
    def _minimum_is_at_most_the_maximum(self) -> "Processes":
        if self.fewest > self.num_processes:
            raise ValueError(
                f"min_processes must be at most num_processes = {self.num_processes}, "
                f"saw {self.min_processes}"
            )
        return self

    @property
    def fewest(self) -> int:
        """The minimum number of processes."""
        return self.min_processes or self.num_processes


class Workers(Processes):
    """The data-parallel workers of a training job; GPUs that are too few for them are an error."""

    max_failures: int = Field(1, ge=0)
    """How many times lost workers are replaced before the job fails."""


ArtifactName = Literal[
    "annotations",
    "dataset",
    "graph",
    "neighbors",
    "adapter",
    "recommendations",
    "explanations",
    "evaluation",
    "comparison",
]


class JobConfig(Config):
    """Where a project's artifacts are, which every job needs to know."""

    workspace: Uri
    """Folder of all artifacts, local or s3://bucket/prefix. In other keys, workspace:NAME is the
    folder NAME in it."""
    storage: StorageConfig = StorageConfig()
    artifacts: Mapping[ArtifactName, Uri] = {}
    """URIs of artifacts that are not at <workspace>/NAME, for example {dataset: s3://b/dataset}."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_workspace(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("workspace"), str):
            return values
        return _resolved(values, absolute(values["workspace"]).rstrip("/"))

    def artifact(self, name: str) -> str:
        """Return the URI of the artifact `name`: one of `artifacts`, or `<workspace>/<name>`."""
        given = cast(Mapping[str, str], self.artifacts)
        return given.get(name) or f"{self.workspace.rstrip('/')}/{name}"

    def with_artifacts(self, uris: Mapping[str, str | None]) -> Self:
        """Return the config with these artifacts; None means the one in the workspace."""
        given = {**cast(Mapping[str, str], self.artifacts), **uris}
        named = {name: uri for name, uri in given.items() if uri}
        return self.model_copy(update={"artifacts": named})


def _resolved(value: Any, workspace: str) -> Any:
    """Return the value with each `workspace:NAME` replaced by the folder's URI."""
    if isinstance(value, Mapping):
        return {key: _resolved(each, workspace) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(each, workspace) for each in value]
    if isinstance(value, str) and value.startswith(WORKSPACE):
        return f"{workspace}/{value.removeprefix(WORKSPACE)}"
    return value


class SourceJobConfig(JobConfig):
    """A job that reads a user's files."""

    max_rejected_share: float = Field(0.01, ge=0, le=1)
    """Maximum share of rejected rows per input file, above which the job fails. All files of a
    table count as one file."""


class RayJobConfig(JobConfig):
    """A job that runs on a Ray cluster."""

    ray: RayConfig = RayConfig()


class ActorsJobConfig(RayJobConfig):
    """A job that writes texts in several processes."""

    actors: Processes = Processes()


class TrainingJobConfig(RayJobConfig):
    """A job with data-parallel workers."""

    workers: Workers = Workers()
