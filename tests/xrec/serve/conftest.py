"""The town that all tests of the endpoint serve from, and two endpoints."""

from typing import get_args

import pytest

from tests.world.workspace import make_town
from tests.xrec.serve.local_endpoint import (
    ITEMS,
    USERS,
    backfill_config,
    key,
    local_endpoint,
    make_backfill,
)
from xrec.config import Scope

NUM_BACKFILLED_USERS = 5


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """The workspace, read-only. Its backfill has all items of the first five users."""
    root = make_town(tmp_path_factory.mktemp("town"))
    make_backfill(
        backfill_config(root, str(root / "explanations")),
        [(user, item) for user in USERS[:NUM_BACKFILLED_USERS] for item in ITEMS],
    )
    return root


@pytest.fixture(scope="session")
def endpoint(town):
    """The town's endpoint, without keys."""
    with local_endpoint(town) as made:
        yield made


@pytest.fixture(scope="session")
def guarded(endpoint, town):
    """The same with nothing published and three keys, whose secrets are their names."""
    scopes = {"shop": ("explain",), "desk": ("explain", "evidence"), "root": get_args(Scope)}
    keys = [key(name, name, scopes=given, pairs_per_minute=10**9) for name, given in scopes.items()]
    unpublished = str(town / "none")
    with local_endpoint(town, endpoint.model.live, keys=keys, explanations=unpublished) as made:
        yield made
