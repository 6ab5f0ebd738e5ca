"""What property tests have in common: how many examples, and JSON in which something is changed."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.seeds import SEED

FEW = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""The same few examples in each run."""
MANY = settings(FEW, max_examples=1000, derandomize=False)
FEW_OR_MANY = pytest.mark.parametrize("how", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""The folder for temporary files that wait for no disk."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


def examples(how: settings, check: Callable[..., object], **drawn: st.SearchStrategy[Any]) -> None:
    """Call `check` with drawn arguments, as often as `how` says."""
    test = how(given(**drawn)(check))
    if not how.derandomize:
        test = seed(SEED)(test)
    test()


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """JSON, or lines of JSON: as it is, cut off, with other bytes, or with another value in it."""
    how = draw(st.sampled_from(["as it is", "cut", "bytes", "value", "value"]))
    if how == "as it is":
        return content
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "bytes":
        data = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        return bytes(data)
    lines = content.splitlines() if content.count(b"\n{") else [content]
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(_changed(draw, json.loads(lines[number]))).encode()
    return b"\n".join(lines)


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with another one at a place in it, or without what is there."""
    if not isinstance(value, dict) or not value or draw(st.integers(0, 4)) == 0:
        return draw(JSON)
    name = draw(st.sampled_from(sorted(value)))
    if draw(st.integers(0, 4)) == 0:
        return {other: each for other, each in value.items() if other != name}
    return {**value, name: _changed(draw, value[name])}
