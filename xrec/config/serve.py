"""`xrec serve`: what the endpoint answers from, how much load it takes, and who may use it."""

import ipaddress
from collections.abc import Sized
from typing import Literal

from pydantic import Field, field_validator, model_validator

from xrec.config.backfill import EngineOrEndpoint, ExplanationsJobConfig, PricesConfig
from xrec.config.base import Config, Uri
from xrec.config.job import Processes, RayJobConfig
from xrec.config.llm import EndpointConfig, EngineConfig

Scope = Literal["explain", "evidence", "users"]


class HTTPConfig(Config):
    """Where the endpoint listens, and how long a request may take."""

    host: str = "127.0.0.1"
    """Address to listen on; any address other than loopback requires `keys`."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""
    deadline_seconds: float = Field(30.0, ge=1)
    """Seconds after which an unanswered request gets 504."""
    tls: Uri | None = None
    """PEM file with the certificate chain and its private key. If null, plain HTTP."""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is reachable only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class KeyConfig(Config):
    """A client's key; `printf %s KEY | sha256sum` prints its hash."""

    name: str = Field(min_length=1, max_length=64)
    """Name of the key's owner, for logs."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the key as 64 lowercase hex digits; never the key itself."""
    scopes: tuple[Scope, ...] = ("explain",)
    """What it gives access to. explain: explanations, recommendations, items. evidence: also the
    evidence of a text, with the user's profile, and texts that name the user's history. users: also
    lists of user IDs."""
    users: tuple[str, ...] | None = Field(None, min_length=1)
    """IDs of the only users that the key may ask about, for example those of one household's
    device. It also gets texts that name their history. If null, all users."""
    pairs_per_minute: int = Field(600, ge=1)
    """Rate limit of this key in pairs; any other request counts as one pair. Requests above it
    get 429."""

    @model_validator(mode="after")
    def _bound_key_lists_no_users(self) -> "KeyConfig":
        if self.users is not None and "users" in self.scopes:
            raise ValueError(
                "a key with users must not have the scope users, which lists all users"
            )
        return self


def share_of_key(num_places: int, keys: Sized) -> int:
    """Return how many places one key may take: all if it is the only key, else a quarter."""
    return num_places if len(keys) <= 1 else max(1, num_places // 4)


class ServeConfig(RayJobConfig, ExplanationsJobConfig, PricesConfig):
    """`xrec serve`: explanations and the model that writes more of them in, an endpoint out."""

    # Requests arrive one by one, and small batches finish sooner.
    engine: EngineOrEndpoint = EngineConfig(max_rows=32, kv_cache_gib=1.0)  # type: ignore[assignment]
    http: HTTPConfig = HTTPConfig()
    keys: tuple[KeyConfig, ...] = ()
    """Keys, sent as Authorization: Bearer KEY. Without any, only this machine has access."""
    models: Processes = Processes(num_processes=1)
    """The processes that hold the language model; their number is fixed. An endpoint has one."""
    max_money_per_day: float | None = Field(None, gt=0)
    """What live texts may cost per day (UTC) by the token prices in `prices`. Once it is used up,
    they get 429 until midnight; stored texts are still served. If null, there is no limit."""
    frontends: Processes = Processes(num_processes=1)
    """The processes that answer requests, on CPUs and without a model; their number is fixed."""

    @field_validator("keys")
    @classmethod
    def _names_and_hashes_are_distinct(cls, keys: tuple[KeyConfig, ...]) -> tuple[KeyConfig, ...]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return keys

    @model_validator(mode="after")
    def _processes_are_fixed(self) -> "ServeConfig":
        for name in ("models", "frontends"):
            if getattr(self, name).min_processes is not None:
                raise ValueError(f"{name}.min_processes must be null: their number is fixed")
        if self.frontends.device == "cuda":
            raise ValueError("frontends.device must not be cuda: frontends hold no model")
        return self

    @model_validator(mode="after")
    def _money_has_prices(self) -> "ServeConfig":
        if isinstance(self.engine, EndpointConfig) and self.engine.batch:
            raise ValueError("engine.batch must be false: a batch takes hours")
        priced = {name for name, price in self.prices.items() if price}
        names = ("million_prompt_tokens", "million_reply_tokens")
        if self.max_money_per_day is not None and not priced & {*names}:
            raise ValueError(
                f"max_money_per_day = {self.max_money_per_day:g} and prices "
                f"{dict(self.prices) or 'none'}: expected a price in {' or '.join(names)}"
            )
        return self

    @property
    def num_models(self) -> int:
        """The number of processes that write texts; only one can keep an endpoint's limits."""
        return 1 if self.writer == "endpoint" else self.models.num_processes

    @model_validator(mode="after")
    def _other_machines_need_a_key(self) -> "ServeConfig":
        if not is_loopback(self.http.host) and not self.keys:
            raise ValueError(
                f"http.host = {self.http.host!r} can be reached from other machines, "
                "and keys is empty; "
                "give at least one key (name, sha256), or listen on 127.0.0.1"
            )
        return self
