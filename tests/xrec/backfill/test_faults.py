"""Runs on bad stores: one that is slow, hangs and fails in bursts, and a disk that is full."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStore
from tests.xrec.backfill.runs import (
    output_of,
    pairs_of,
    plan,
    published_rows,
    rows_at,
    run,
    with_pairs,
)
from tests.xrec.backfill.toy_engines import Toy
from xrec.errors import StorageError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

MakeConfig = Callable[..., Any]
_ROOM_FOR_SOME_CHUNKS = 64 * 1024  # bytes
PAIRS = tuple(f"u{user} i{item}" for user in range(12) for item in range(4))


def test_run_onto_a_store_that_is_slow_hangs_and_fails_in_bursts_is_whole(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], s3: ObjectStore
) -> None:
    faults = Faults(share=0.0, delay_seconds=0.02, stalls=0.03, stall_seconds=4.0, burst=8)
    with faulty_proxy(s3.endpoint_url, faults) as endpoint_url:
        storage = s3.storage.model_copy(
            update={"endpoint_url": endpoint_url, "read_timeout_seconds": 1.0, "max_attempts": 8}
        )
        config = make_config(explanations=f"{s3.new_bucket()}/out", storage=storage)
        run(config, pairs(*PAIRS), load=Toy())
    assert faults.num_failed >= 8
    assert faults.num_stalled >= 3
    output = output_of(config.model_copy(update={"storage": s3.storage}))
    assert pairs_of(published_rows(output)) == sorted(PAIRS)
    assert published_rows(output, failed=True) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False
        ).returncode
    ):
        pytest.skip("only root, where it may mount, can make a disk that is full")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_run_onto_a_full_disk_says_so_and_goes_on_once_there_is_room(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], small_disk: Path, tmp_path: Path
) -> None:
    config = make_config(
        explanations=str(small_disk / "out"),
        rows_per_chunk=4,
        actors={"num_actors": 1, "device": "cpu"},
    )
    given = with_pairs(
        config.model_copy(update={"explanations": str(tmp_path / "x")}), pairs(*PAIRS)
    )
    config = config.model_copy(update={"pairs": given.pairs})
    plan(config)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - _ROOM_FOR_SOME_CHUNKS))
    with pytest.raises(StorageError, match="No space left on device"):
        run(config, load=Toy(seconds_per_prompt=0.6))  # so that a commit has few chunks
    committed = rows_at(output_of(config), None)
    assert 0 < len(committed) < len(PAIRS)

    ballast.unlink()
    # There was no room to say that the driver ended.
    config = config.model_copy(update={"take_over": True})
    run(config, load=Toy(says="explained later"))
    rows = published_rows(output_of(config))
    assert pairs_of(rows) == sorted(PAIRS)
    assert published_rows(output_of(config), failed=True) == []
    assert [
        row for row in rows if not row["explanation"].startswith("explained later")
    ] == committed
