"""`xrec serve`: what the endpoint answers from, how much it takes in, and who may ask."""

import ipaddress
from collections.abc import Sized
from typing import Literal

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.llm import EngineConfig
from xrec.config.shared import Device, ExplanationsJobConfig, RayJobConfig

Scope = Literal["explain", "evidence", "users"]


class HTTPConfig(Config):
    """Where the endpoint listens, and how long it may take."""

    host: str = "127.0.0.1"
    """Address to listen on; all but loopback need security.keys."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    deadline_seconds: float = Field(30.0, ge=1)
    """Seconds after which a request without an answer gets 504."""
    tls: str | None = None
    """PEM file of the certificate chain and its private key. If null, plain HTTP."""


def is_loopback(host: str) -> bool:
    """Whether the name or address of a host is one of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class KeyConfig(Config):
    """A key that may ask; `printf %s KEY | sha256sum` gives its hash."""

    name: str = Field(min_length=1, max_length=64)
    """Whose key it is, for logs."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the key, as 64 lower-case hex digits; never the key itself."""
    scopes: tuple[Scope, ...] = ("explain",)
    """What it may ask for. explain: explanations, recommendations, items. evidence: also what a
    text rests on, with the user's profile. users: also lists of user ids."""
    pairs_per_minute: int = Field(600, ge=1)
    """Rate of this key in pairs; any other request counts as one. What is beyond it gets 429."""


class SecurityConfig(Config):
    """Who may ask."""

    keys: tuple[KeyConfig, ...] = ()
    """Sent as Authorization: Bearer KEY. Without any, only this machine may ask."""

    @field_validator("keys")
    @classmethod
    def _names_and_hashes_are_distinct(cls, keys: tuple[KeyConfig, ...]) -> tuple[KeyConfig, ...]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return keys


def share_of_key(places: int, keys: Sized) -> int:
    """Return how many of the places one key may take: a quarter of them if there are others."""
    return places if len(keys) <= 1 else max(1, places // 4)


class LiveEngineConfig(EngineConfig):
    """The engine of requests as they come, which is small so that each is done soon."""

    max_rows: int = Field(32, ge=1)
    """Largest number of pairs generated together."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """GiB for the KV cache, set aside at start."""


class ReplicasConfig(Config):
    """Processes of one kind."""

    num_replicas: int = Field(1, ge=1)
    """Number of replicas."""
    cpus_per_replica: int = Field(1, ge=1)
    """Logical CPUs, and torch threads, of each."""


class ModelReplicasConfig(ReplicasConfig):
    """The processes that hold the language model."""

    device: Device = "auto"
    """What each computes on; auto is a GPU each if there are enough."""


class ServeConfig(RayJobConfig, ExplanationsJobConfig):
    """`xrec serve`: explanations and what writes further ones in, an endpoint out."""

    engine: LiveEngineConfig = LiveEngineConfig()
    http: HTTPConfig = HTTPConfig()
    security: SecurityConfig = SecurityConfig()
    models: ModelReplicasConfig = ModelReplicasConfig()
    frontends: ReplicasConfig = ReplicasConfig()
    """The processes that answer, without a model."""

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> "ServeConfig":
        if not is_loopback(self.http.host) and not self.security.keys:
            raise ValueError(
                f"http.host = {self.http.host!r} can be reached from other machines, "
                "and security.keys is empty; "
                "give at least one key (name, sha256), or listen on 127.0.0.1"
            )
        return self
