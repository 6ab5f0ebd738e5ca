"""A stage's actor in the test's own process; Ray need not be started."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from ray import cloudpickle

from tests.world.here import PoolHere, map_here
from xrec.bulk import Summary
from xrec.bulk.work.worker import WorkerSettings


class PickledPool(PoolHere):
    """Gets its settings as bytes, as processes of Ray do."""

    def summaries(
        self, settings: WorkerSettings, chunks: Sequence[int], is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Summary]]:
        return super().summaries(cloudpickle.loads(cloudpickle.dumps(settings)), chunks, is_over)


@pytest.fixture(scope="module")
def actor_here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.annotate.driver.RayPool", lambda **actors: PickledPool())
        patch.setattr("xrec.bulk.work.pool.map_in_processes", map_here)
        yield
