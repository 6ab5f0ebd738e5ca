"""Backfills over a small workspace, as in the tests of `xrec.backfill`."""

from tests.xrec.backfill.conftest import runs, workspace

__all__ = ["runs", "workspace"]
