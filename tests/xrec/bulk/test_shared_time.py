"""The time of a process is divided among the works that it does at the same time."""

import pytest

from xrec.bulk import shared_time
from xrec.bulk.shared_time import SharedTime


def test_shares_of_works_at_the_same_time_add_up_to_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 10.0, 30.0, 90.0, 200.0, 201.0])
    monkeypatch.setattr(shared_time.time, "monotonic", lambda: next(clock))
    whole = SharedTime()
    with whole.share() as first:
        with whole.share() as second:
            pass
        assert second.seconds == 10
    assert first.seconds == 10 + 10 + 60
    with whole.share() as third:
        pass
    assert third.seconds == 1  # what was between is nobody's
