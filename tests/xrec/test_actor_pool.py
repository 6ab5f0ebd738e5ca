"""Rows go through a real actor pool, also when an actor is lost; errors are those of our code."""

import gc
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayError

from xrec.actor_pool import as_xrec_error, map_on_actors
from xrec.errors import ClusterError, DataError, ModelError, StorageNotFoundError


class _DiesOnce:
    """Doubles numbers; the first process that gets a 3 creates a file and kills itself."""

    def __init__(self, marker: str):
        self._marker = Path(marker)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if batch["number"][0] == 3 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": batch["number"], "double": batch["number"] * 2}


class _CollectsGarbage:
    def __init__(self, settings: None):
        pass

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "collects": np.array([gc.isenabled()])}


class _Refuses:
    def __init__(self, message: str):
        self._message = message

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        raise DataError(self._message)


def _rows(actor: type[Callable[..., Any]], settings: object) -> list[dict[str, Any]]:
    numbers = [{"number": number} for number in range(6)]
    return list(
        map_on_actors(actor, settings, numbers, min_actors=1, max_actors=2, cpus_per_actor=1)
    )


@pytest.mark.usefixtures("ray_cluster")
def test_map_on_actors_row_of_a_killed_actor_is_done_again(tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    rows = _rows(_DiesOnce, str(marker))
    assert marker.exists()
    assert sorted((row["number"], row["double"]) for row in rows) == [
        (number, 2 * number) for number in range(6)
    ]


@pytest.mark.usefixtures("ray_cluster")
def test_map_on_actors_garbage_is_collected_again_after_the_imports() -> None:
    assert all(row["collects"] for row in _rows(_CollectsGarbage, None))


@pytest.mark.usefixtures("ray_cluster")
def test_map_on_actors_raises_the_actors_own_error_with_its_message() -> None:
    with pytest.raises(DataError, match=r"^row 1: broken\n  second line$"):
        _rows(_Refuses, "row 1: broken\n  second line")


@pytest.mark.usefixtures("ray_cluster")
def test_map_on_actors_that_failed_leaves_no_actor_that_holds_a_cpu() -> None:
    # pytest would keep Ray's log record of the error, which refers to the actors.
    logging.disable(logging.ERROR)
    try:
        with pytest.raises(DataError) as held:  # a caller may keep the error
            _rows(_Refuses, "broken")
    finally:
        logging.disable(logging.NOTSET)
    deadline = time.monotonic() + 30
    while (free := ray.available_resources()["CPU"]) < (
        all_ := ray.cluster_resources()["CPU"]
    ) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (free, str(held.value)) == (all_, "broken")


CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
RAY_TEXTS = {
    "ours": (
        f'ray::MapWorker()\n  File "location.py", line 79\nFileNotFoundError: b/x{CAUSED}'
        "ray::MapWorker()\nxrec.errors.StorageNotFoundError: s3://b/x: not found\n  second line"
        f"{CAUSED}ray.exceptions.UserCodeException: UDF failed\nTo change retry attempts"
    ),
    "start": (
        "The actor died because of an error raised in its creation task\n"
        "  File\nxrec.errors.ModelError: no model\n"
    ),
    "bug": f"ray::MapWorker()\n  File\nKeyError: 'x'{CAUSED}UDF failed\nTo change",
}


@pytest.mark.parametrize(
    ("text", "error_type", "message"),
    [
        ("ours", StorageNotFoundError, r"^s3://b/x: not found\n  second line$"),
        ("start", ModelError, r"^no model$"),
        ("bug", ClusterError, r"actors failed \(RayError: KeyError: 'x'\); run the job again"),
    ],
)
def test_error_of_an_actor_is_known_by_rays_text(
    text: str, error_type: type[Exception], message: str
) -> None:
    found = as_xrec_error(RayError(RAY_TEXTS[text]))
    assert type(found) is error_type
    assert re.search(message, str(found))
