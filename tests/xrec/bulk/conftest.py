"""Places on each store for runs, and waits that take no time."""

import pytest

from tests.xrec.table.conftest import Place, bucket, disk, place
from xrec.bulk import backoff, ledger
from xrec.table import writer

__all__ = ["Place", "bucket", "disk", "place"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever is tried again be so at once, as often as ever."""
    for module in (backoff, ledger, writer):
        monkeypatch.setattr(module, "_WAITS_SECONDS", (0.0, 0.0, 0.0))
