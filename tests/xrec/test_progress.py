"""Progress of long work where there is no terminal."""

import logging
from types import SimpleNamespace

import pytest

from xrec.progress import counter, progress


@pytest.fixture
def seconds(monkeypatch, caplog):
    """The time, in a list of one number that a test changes; there is no terminal."""
    now = [100.0]
    monkeypatch.setattr("xrec.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    caplog.set_level(logging.INFO, "xrec")
    return now


def test_counter_writes_a_line_after_ten_seconds_and_none_at_the_end(seconds, caplog):
    with counter("users ranked", 50) as show:
        for now, done in ((105, 10), (111, 20), (115, 30), (122, 40), (140, 50)):
            seconds[0] = now
            show(done)
    assert caplog.messages == [
        "users ranked: 20 of 50, 18 s to go",
        "users ranked: 40 of 50, 6 s to go",
    ]


def test_progress_yields_each_item_and_counts_those_that_are_done(seconds, caplog):
    seen = []
    for item in progress("abc", "letters", 3):
        seen.append(item)
        seconds[0] += 11
    assert seen == ["a", "b", "c"]
    assert caplog.messages == ["letters: 1 of 3", "letters: 2 of 3, 11 s to go"]
