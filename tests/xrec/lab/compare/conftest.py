"""A small town with a random graph and language model, and configs of comparisons in it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.world.workspace import PROMPT, build_workspace
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig

MakeConfig = Callable[..., CompareConfig]


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """Dataset, graph and language model; tests must not change them."""
    return build_workspace(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def make_config(town, tmp_path):
    """Make the config of a comparison in the test's own folder; values replace the defaults."""

    def make(**values: Any) -> CompareConfig:
        defaults = {
            "workspace": town,
            "comparison": str(tmp_path / "comparison"),
            "entries": ["profile", "nearest"],
            "llm": {"model": f"{town}/llm", "dtype": "float32"},
            "prompt": PROMPT,
            "metrics": {"encoder": None},
            "actors": {"device": "cpu"},
        }
        return parse_config(CompareConfig, {**defaults, **values})

    return make
