"""A stage's actor in the test's own process; Ray need not be started."""

from typing import Any

import pytest
from ray import cloudpickle

from tests.xrec.bulk.toy_run import PoolHere


@pytest.fixture
def actor_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor in this process, which gets its settings as bytes all the same."""

    def pool_here(settings: Any, **actors: Any) -> PoolHere:
        return PoolHere(cloudpickle.loads(cloudpickle.dumps(settings)))

    monkeypatch.setattr("xrec.annotate.run.ActorPool", pool_here)
