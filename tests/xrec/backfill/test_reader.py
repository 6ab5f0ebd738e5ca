"""Readers see exactly the committed rows, while a run is under way and after it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xrec.backfill.finish import finish
from xrec.backfill.worker import ChunkWorker, WorkerSettings

from tests.xrec.backfill.runs import pairs_of, plan
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import draft_plan, read, read_failed
from xrec.backfill.identity import sources_of
from xrec.errors import ArtifactNotFoundError
from xrec.schemas import FAILED, GENERATED

MakeConfig = Callable[..., Any]
PAIRS_OF_USERS = tuple(f"u{user} i{item}" for user in range(6) for item in range(2))


@pytest.fixture(params=["local", "s3"])
def config(request: pytest.FixtureRequest, make_config: MakeConfig) -> Any:
    """A run, once on disk and once on the object store."""
    if request.param == "local":
        return make_config(rows_per_chunk=2)
    s3 = request.getfixturevalue("s3")
    return make_config(rows_per_chunk=2, storage=s3.storage, explanations=f"{s3.new_bucket()}/out")


def test_read_gives_exactly_the_committed_chunks_while_a_run_is_under_way(
    config: Any, pairs: Callable[..., pa.Table]
) -> None:
    made = plan(config, pairs(*PAIRS_OF_USERS, "nobody i0"))
    worker = ChunkWorker(
        WorkerSettings(
            sources_of(config),
            made.output.shared_uri,
            made.identity.run,
            config.decoding,
            device="cpu",
            engine=config.engine,
            num_threads=1,
            shared_key="",
            load=Toy(),
        )
    )
    (made.output / "part-00000-deadbeef.parquet").write_bytes(
        b"of an attempt that never committed: not even Parquet"
    )
    expected: set[str] = set()
    for chunk, planned in made.chunks.items():
        found = [
            *read(made.output.uri, config.storage).to_table().to_pylist(),
            *read_failed(made.output.uri, config.storage).to_table().to_pylist(),
        ]
        assert sorted(pairs_of(found)) == sorted(expected)
        worker({"chunk": np.array([chunk]), "input": np.array([planned.pairs])})
        committed = pq.read_table(
            pa.BufferReader(
                (made.output / "plan" / made.identity.run / f"{chunk:05d}.parquet").read_bytes()
            )
        )
        expected |= set(pairs_of(committed.to_pylist()))
    assert expected == {*PAIRS_OF_USERS, "nobody i0"}

    finish(made, max_failed_share=1.0)
    again = [pairs(*PAIRS_OF_USERS, "nobody i0")]
    assert draft_plan(config, again).done is not None
    (made.output / "_SUCCESS").delete()
    # This is what a driver leaves that died between the manifest and _SUCCESS.
    assert draft_plan(config, again).done is None
    finish(made, max_failed_share=1.0)
    assert draft_plan(config, again).done is not None
    assert sorted(pairs_of(read(made.output.uri, config.storage).to_table().to_pylist())) == sorted(
        PAIRS_OF_USERS
    )
    assert read(made.output.uri, config.storage).schema.equals(GENERATED)
    assert (
        read_failed(made.output.uri, config.storage).to_table().to_pylist()[0]["reason"]
        == "unknown_user"
    )
    assert not (made.output / "part-00000-deadbeef.parquet").exists()  # deleted by `finish`


def test_read_of_a_plan_without_a_commit_is_empty_and_typed(
    config: Any, pairs: Callable[..., pa.Table]
) -> None:
    made = plan(config, pairs("u0 i0"))
    assert read(made.output.uri, config.storage).to_table().equals(GENERATED.empty_table())
    assert read_failed(made.output.uri, config.storage).to_table().equals(FAILED.empty_table())


def test_read_of_nothing_is_refused(config: Any) -> None:
    with pytest.raises(ArtifactNotFoundError, match="no explanations artifact"):
        read(config.artifact("explanations"), config.storage)
