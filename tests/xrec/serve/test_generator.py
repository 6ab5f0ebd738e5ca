"""The model replica's swaps, with models that take a while to load and generate nothing."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.xrec.serve.town import make_town, serve_config
from xrec.config.serve import ServeConfig
from xrec.serve import generator
from xrec.serve.choice import choice_of
from xrec.serve.generator import Generator


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_town(tmp_path_factory.mktemp("town"))


def test_of_swaps_in_quick_succession_the_last_one_stays(
    town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"first": 0.0, "slow": 0.2, "skipped": 0.0, "last": 0.05}
    loaded: list[str] = []

    async def nothing() -> None:
        pass

    def load(config: ServeConfig) -> SimpleNamespace:
        name = config.artifact("adapter")
        loaded.append(name)
        time.sleep(seconds[name])
        return SimpleNamespace(model_fingerprint=name, drained=nothing)

    monkeypatch.setattr(generator, "load_live", load)
    monkeypatch.setattr(Generator, "_record_gauges", lambda self: nothing())
    config = serve_config(town)

    async def swap() -> str:
        replica = Generator(config)
        for name in seconds:
            await replica.reconfigure({**choice_of(config), "adapter": name})
            if name == "slow":
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.6)
        return await replica.model_fingerprint()

    assert asyncio.run(swap()) == "last"
    assert loaded == ["first", "slow", "last"]
