"""`xrec serve`: what the endpoint answers from, how much it takes in, and who may ask."""

import ipaddress

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.llm import DecodingConfig, LLMConfig, ScoringEngineConfig
from xrec.config.shared import ColdStartConfig, Device, JobConfig, RayConfig


class HTTPConfig(Config):
    """Where the endpoint listens, and how much it takes in."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Any but a loopback address needs security.keys.",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    max_body_kib: int = Field(
        256, ge=1, description="Largest request body, KiB; a larger one is answered with 413."
    )
    max_concurrent_requests: int = Field(
        256,
        ge=1,
        description="Requests that a frontend answers at a time; more are answered with 429 at once.",
    )
    deadline_seconds: float = Field(
        30.0,
        ge=1,
        description="A request that is not answered by then is answered with 504, and its generation stops.",
    )
    tls_certificate: str | None = Field(
        None, description="PEM file of the certificate chain; none: plain HTTP."
    )
    tls_key: str | None = Field(None, description="PEM file of the certificate's private key.")

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> "HTTPConfig":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        return self

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class KeyConfig(Config):
    """A key that may ask. The key itself stands nowhere: `printf %s KEY | sha256sum` gives its hash; 32 random bytes make a good one."""

    name: str = Field(min_length=1, max_length=64, description="Whose key it is, for logs.")
    # repr=False: who gives the key itself by mistake must not find it in an error message.
    sha256: str = Field(description="SHA-256 of the key, 64 hex digits.", repr=False)
    requests_per_minute: int = Field(
        600,
        ge=1,
        description="Rate of this key at one frontend; beyond it, requests are answered with 429.",
    )
    burst: int = Field(
        60, ge=1, description="Requests that may come at once, before the rate counts."
    )

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if len(value) != 64 or not all(digit in "0123456789abcdef" for digit in value):
            raise ValueError(
                "expected 64 lower-case hex digits, the SHA-256 of the key; never the key itself"
            )
        return value


class SecurityConfig(Config):
    """Who may ask."""

    keys: tuple[KeyConfig, ...] = Field(
        (), description="Keys, sent as Authorization: Bearer KEY. None: only this machine may ask."
    )
    log_texts: bool = Field(
        False,
        description="Log ids, profiles and explanations too. They tell of people: off unless a fault is looked for.",
    )

    @field_validator("keys")
    @classmethod
    def _names_and_hashes_are_distinct(cls, keys: tuple[KeyConfig, ...]) -> tuple[KeyConfig, ...]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return keys


class ReadThroughConfig(Config):
    """The backfill's explanations and the texts that were generated, kept in each frontend's memory."""

    backfill_mib: float = Field(
        128.0,
        gt=0,
        description="Row groups of the backfill that a frontend keeps, MiB; the least recently used go first.",
    )
    live_mib: float = Field(32.0, gt=0, description="Generated texts that a frontend keeps, MiB.")
    refresh_seconds: float = Field(
        5.0, gt=0, description="How often a new generation of the backfill is looked for."
    )


class LiveEngineConfig(ScoringEngineConfig):
    """The engine of requests as they come: fewer rows than in bulk, so that each is soon done."""

    max_rows: int = Field(
        32, ge=1, description="Most pairs that are generated together; more wait for a row."
    )
    key_value_gib: float = Field(
        1.0,
        gt=0,
        description="GiB for keys and values, allocated at once; fewer rows where it holds no more.",
    )


class ModelReplicasConfig(Config):
    """The processes that hold the language model."""

    num_replicas: int = Field(1, ge=1, description="Replicas.")
    cpus_per_replica: int = Field(
        1, ge=1, description="Torch threads, and logical CPUs, of each replica."
    )
    device: Device = Field(
        "auto", description="auto: a GPU a replica where the cluster has enough, else CPU."
    )
    max_waiting_pairs: int = Field(
        256,
        ge=1,
        description="Pairs that may wait for a row of a replica; a request beyond it is answered with 429 and Retry-After.",
    )


class FrontendsConfig(Config):
    """The processes that answer: they hold dataset, vectors and caches, not the language model."""

    num_replicas: int = Field(1, ge=1, description="Replicas.")
    cpus_per_replica: float = Field(1.0, gt=0, description="Logical CPUs of each replica.")


class ServeConfig(JobConfig):
    """`xrec serve`: dataset, graph, adapter, a frozen language model and a backfill's explanations in, an HTTP endpoint out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(
        None, description="Input URI; none: <workspace>/adapter. May be changed while it runs."
    )
    explanations: str | None = Field(
        None,
        description="URI of a backfill, asked before the model; none: <workspace>/explanations. May be changed while it runs; may come later.",
    )
    cold_start: ColdStartConfig | None = Field(
        None,
        description="New users and items, as in the backfill; none: only the dataset's own are known.",
    )
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig, description="Decoding; give it as the backfill has it."
    )
    engine: LiveEngineConfig = Field(
        default_factory=LiveEngineConfig, description="Generation engine of each model replica."
    )
    http: HTTPConfig = Field(
        default_factory=HTTPConfig, description="Where it listens, and its limits."
    )
    security: SecurityConfig = Field(default_factory=SecurityConfig, description="Who may ask.")
    read_through: ReadThroughConfig = Field(
        default_factory=ReadThroughConfig, description="Caches."
    )
    models: ModelReplicasConfig = Field(
        default_factory=ModelReplicasConfig, description="Model processes."
    )
    frontends: FrontendsConfig = Field(
        default_factory=FrontendsConfig, description="Processes that answer."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> "ServeConfig":
        if not self.http.is_loopback and not self.security.keys:
            raise ValueError(
                f"http.host = {self.http.host!r} can be reached from other machines, and security.keys is empty; "
                "give at least one key (name, sha256), or listen on 127.0.0.1"
            )
        return self
