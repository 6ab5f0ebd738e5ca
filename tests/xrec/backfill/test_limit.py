"""A run that is begun with a limit of pairs, and the run that goes on from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, published_rows, run
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.backfill import has_work, read
from xrec.config.backfill import BackfillConfig
from xrec.errors import ArtifactNotFoundError, DataError

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))
BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")


@pytest.mark.usefixtures("actors_here")
def test_canary_publishes_nothing_and_the_next_run_explains_only_the_others(
    make_config: MakeConfig, pairs: MakePairs, called: Path
) -> None:
    config, given = make_config(rows_per_chunk=2), pairs(*GOOD)
    canary = config.model_copy(update={"limit": 3})
    assert has_work(canary, plan(canary, given))
    assert run(canary, given, load=Toy(calls=str(called))) is None
    by_canary = calls(called)
    assert 3 <= len(by_canary) < len(GOOD)
    output = output_of(config)
    assert not (output / "_report").exists()
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        read(output.uri)
    assert not has_work(canary, plan(canary, given))
    assert has_work(config, plan(config, given))
    assert run(config, given, load=Toy(calls=str(called))) is not None
    assert calls(called) == sorted({*GOOD} - {*by_canary})
    assert pairs_of(published_rows(output)) == sorted(GOOD)


@pytest.mark.usefixtures("actors_here")
def test_canary_whose_pairs_fail_ends_with_that_error_each_time(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    """All pairs fail; the one of the canary is a quarter of all, and all of the canary's."""
    canary = make_config(limit=1, rows_per_chunk=1, max_failed_share=0.5)
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of 1 rows failed .* 0 succeeded, 3 are left"):
            run(canary, pairs(*BROKEN), load=Toy())


def test_limit_that_makes_no_sense_is_refused(make_config: MakeConfig) -> None:
    values = make_config().model_dump(exclude_unset=True)
    for limit in (0, -1):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            BackfillConfig.model_validate({**values, "limit": limit})
    with pytest.raises(ValueError, match="limit = 5 and retry_failed: expected one of them"):
        BackfillConfig.model_validate({**values, "limit": 5, "retry_failed": "all"})
