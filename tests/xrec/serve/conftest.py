"""The town that all tests of the endpoint serve from; it is made once."""

import pytest

from tests.world.workspace import make_town
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    backfill_config,
    local_endpoint,
    make_backfill,
)

NUM_BACKFILLED_USERS = 6


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """The workspace, read-only. Its backfill has the first six users with the items 0 to 4."""
    root = make_town(tmp_path_factory.mktemp("town"))
    make_backfill(
        backfill_config(root, str(root / "explanations")),
        [(user, item) for user in USERS[:NUM_BACKFILLED_USERS] for item in ITEMS[:5]],
    )
    return root


@pytest.fixture(scope="session")
def endpoint(town):
    """The town's endpoint, without keys."""
    with local_endpoint(town) as made:
        yield made
