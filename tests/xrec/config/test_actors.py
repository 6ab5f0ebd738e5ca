"""The actor pool's range."""

import pytest
from pydantic import ValidationError

from xrec.config.backfill import ActorsConfig


def test_actors_more_at_the_start_than_at_most_are_refused() -> None:
    assert ActorsConfig(num_actors=3, min_actors=3).min_actors == 3
    with pytest.raises(ValidationError, match="min_actors must be at most num_actors = 2, saw 3"):
        ActorsConfig(min_actors=3)
