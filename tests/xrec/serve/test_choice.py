"""Changes of artifacts in a running replica, with artifacts that take a while to read."""

import asyncio

import pytest

from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError, DataError
from xrec.serve.artifacts import Swaps, choice_of, chosen
from xrec.serve.metrics import Recorder

CONFIG = parse_config(
    ServeConfig,
    {"workspace": "s3://bucket/run", "llm": {"model": "m"}, "adapter": "s3://bucket/adapter-7"},
)


def test_user_config_names_artifacts_and_nothing_else() -> None:
    other = chosen(CONFIG, {**choice_of(CONFIG), "adapter": "s3://bucket/adapter-8"})
    names = ("adapter", "graph")
    assert [other.artifact(name) for name in names] == [
        "s3://bucket/adapter-8",
        "s3://bucket/run/graph",
    ]
    assert other.llm == CONFIG.llm
    with pytest.raises(ConfigError, match="llm: unknown key"):
        chosen(CONFIG, {**choice_of(CONFIG), "llm": "/etc/passwd"})


def test_of_swaps_in_quick_succession_the_last_is_taken_and_a_bad_one_changes_nothing() -> None:
    began: list[str] = []
    taken: list[str] = []
    recorder = Recorder()

    async def take(config: ServeConfig) -> None:
        adapter = config.artifact("adapter")
        began.append(adapter)
        await asyncio.sleep(0.1 if adapter == "slow" else 0)
        if adapter == "bad":
            raise DataError("it is broken")
        taken.append(adapter)

    async def swap() -> None:
        swaps = Swaps("generator", CONFIG, take, recorder)
        for adapter in ("first", "slow", "skipped", "last", "bad"):
            await swaps.to({**choice_of(CONFIG), "adapter": adapter})
            await asyncio.sleep({"slow": 0.02, "last": 0.2}.get(adapter, 0))
        await asyncio.sleep(0.05)

    asyncio.run(swap())
    assert began == ["first", "slow", "last", "bad"]
    assert taken == ["first", "slow", "last"]
    counted = 'xrec_serve_swaps_total{deployment="generator",outcome="%s"} %s'
    for line in (counted % ("taken", 2.0), counted % ("refused", 1.0)):
        assert line in recorder.text().decode()
