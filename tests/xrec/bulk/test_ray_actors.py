"""Errors of actors are those of our code, and garbage is collected after an actor's start."""

import gc
import re

import pytest
from ray import cloudpickle
from ray.exceptions import RayError

from xrec.bulk.work.ray_actors import as_xrec_error, unpack
from xrec.errors import ClusterError, ModelError, StorageNotFoundError

CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
RAY_TEXTS = {
    "ours": (
        f'ray::ChunkActor.do()\n  File "location.py", line 79\nFileNotFoundError: b/x{CAUSED}'
        "ray::ChunkActor.do()\nxrec.errors.StorageNotFoundError: s3://b/x: not found\n  second line"
        f"{CAUSED}ray.exceptions.UserCodeException: UDF failed\nTo change retry attempts"
    ),
    "start": (
        "The actor died because of an error raised in its creation task\n"
        "  File\nxrec.errors.ModelError: no model\n"
    ),
    "bug": f"ray::ChunkActor.do()\n  File\nKeyError: 'x'{CAUSED}UDF failed\nTo change",
}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("ours", StorageNotFoundError, r"^s3://b/x: not found\n  second line$"),
        ("start", ModelError, r"^no model$"),
        ("bug", ClusterError, r"actors failed \(RayError: KeyError: 'x'\); run the job again"),
    ],
)
def test_error_of_an_actor_is_in_rays_text(text: str, error: type[Exception], message: str) -> None:
    found = as_xrec_error(RayError(RAY_TEXTS[text]))
    assert type(found) is error
    assert re.search(message, str(found))


class _Seen:
    """Says, when it is unpacked, whether garbage was collected meanwhile."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return gc.isenabled, ()


def test_unpack_collects_garbage_again_afterwards_and_not_meanwhile() -> None:
    assert gc.isenabled()
    assert unpack(cloudpickle.dumps(_Seen())) is False
    assert gc.isenabled()
