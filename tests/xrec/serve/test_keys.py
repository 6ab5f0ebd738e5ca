"""Keys and their rates, on a clock of the test's own; without keys, only this machine may ask."""

import hashlib
from typing import Any

import pytest

from xrec.config.base import parse_config
from xrec.config.serve import KeyConfig, ServeConfig
from xrec.errors import ConfigError
from xrec.serve.keys import Keys
from xrec.serve.problems import ProblemError


def key(name: str, secret: str, **values: Any) -> KeyConfig:
    return KeyConfig(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **values)


def scope(client: str = "10.0.0.7", **headers: str) -> dict[str, Any]:
    named = [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in {"host": "shop.example", **headers}.items()
    ]
    return {"type": "http", "client": (client, 5000), "headers": named}


def status(keys: Keys, asked: dict[str, Any]) -> int | str:
    """Return the name of the admitted key, or the status of the refusal."""
    try:
        return keys.admit(asked)
    except ProblemError as error:
        return error.problem.status


def test_known_keys_are_let_in_by_name_and_others_are_not() -> None:
    keys = Keys((key("shop", "open sesame"), key("app", "other secret")))
    assert status(keys, scope(authorization="Bearer open sesame")) == "shop"
    assert status(keys, scope(authorization="bearer other secret")) == "app"
    assert status(keys, scope(x_api_key="other secret")) == "app"
    for wrong in (
        "Bearer nothing",
        "Bearer ",
        "Basic open sesame",
        "open sesame",
        "Bearer " + key("x", "open sesame").sha256,
    ):
        assert status(keys, scope(authorization=wrong)) == 401
    assert status(keys, scope()) == 401
    assert status(keys, scope("127.0.0.1")) == 401  # this machine needs a key too


def test_rate_is_of_each_key_and_recovers() -> None:
    now = [100.0]
    keys = Keys(
        (key("slow", "s", requests_per_minute=6, burst=2), key("fast", "f", burst=50)),
        clock=lambda: now[0],
    )
    slow = scope(authorization="Bearer s")
    assert [status(keys, slow) for _ in range(3)] == ["slow", "slow", 429]
    assert [status(keys, scope(authorization="Bearer f")) for _ in range(5)] == ["fast"] * 5
    with pytest.raises(ProblemError) as refused:
        keys.admit(slow)
    assert refused.value.retry_after is not None
    now[0] += refused.value.retry_after
    assert [status(keys, slow) for _ in range(2)] == ["slow", 429]
    now[0] += 3600
    # No more than the burst is saved up.
    assert [status(keys, slow) for _ in range(3)] == ["slow", "slow", 429]


@pytest.mark.parametrize(
    ("client", "host", "expected"),
    [
        ("127.0.0.1", "localhost:8000", "local"),
        ("127.0.0.1", "127.0.0.1:8000", "local"),
        ("::1", "[::1]:8000", "local"),
        ("10.0.0.7", "127.0.0.1:8000", 403),
        ("127.0.0.1", "evil.example", 403),  # a foreign name that points to this machine
        ("127.0.0.1", "", 403),
    ],
)
def test_without_keys_only_this_machine_may_ask(
    client: str, host: str, expected: int | str
) -> None:
    assert status(Keys(()), scope(client, host=host)) == expected


def test_config_refuses_to_listen_elsewhere_without_keys_and_keys_that_are_no_hashes() -> None:
    values = {"workspace": "w", "llm": {"model": "m"}}
    for host in ("0.0.0.0", "10.1.2.3", "::", "shop.example"):
        with pytest.raises(ConfigError, match=r"security\.keys is empty; give at least one key"):
            parse_config(ServeConfig, {**values, "http": {"host": host}})
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        parse_config(ServeConfig, {**values, "http": {"host": host}})
    secure = {"keys": [key("shop", "open sesame").model_dump()]}
    parse_config(ServeConfig, {**values, "http": {"host": "0.0.0.0"}, "security": secure})
    with pytest.raises(ConfigError, match="never the key itself"):
        parse_config(
            ServeConfig,
            {**values, "security": {"keys": [{"name": "shop", "sha256": "open sesame"}]}},
        )
    with pytest.raises(ConfigError, match="two keys have the same sha256"):
        parse_config(
            ServeConfig,
            {
                **values,
                "security": {"keys": [*secure["keys"], {**secure["keys"][0], "name": "again"}]},
            },
        )
