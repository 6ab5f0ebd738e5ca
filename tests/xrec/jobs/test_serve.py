"""The command `xrec serve` and its signals; tests/xrec/nights runs it on a real Ray Serve."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from xrec.jobs import serve

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_signal_during_the_start_is_not_lost(number, monkeypatch):
    """A shell lets what it starts in the background ignore SIGINT."""
    seen: list[Any] = []

    @contextmanager
    def deployed(*_: Any) -> Iterator[str]:
        signal.raise_signal(number)
        yield "url"

    def reload() -> Any:
        seen.append("reloaded")
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "deployed", deployed)
    monkeypatch.setattr(serve, "ensure_ray", lambda *_, **__: nullcontext())
    monkeypatch.setattr(serve, "checked", lambda config: config)
    before = [signal.signal(each, signal.SIG_IGN) for each in NUMBERS]
    try:
        with pytest.raises(KeyboardInterrupt):
            serve.run(SimpleNamespace(ray=None), reload, seen.append)
    finally:
        for each, handler in zip(NUMBERS, before, strict=True):
            signal.signal(each, handler)
    assert seen == (["url", "reloaded"] if number == signal.SIGHUP else [])
