"""Tests of clusters look only at the clusters that they start."""

import pytest


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch):
    """Hide the cluster of the user who runs the tests."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
