"""Errors of actors that are not of our code."""

import pytest
from ray.exceptions import RayError

from xrec.bulk.work.ray_actors import as_xrec_error
from xrec.errors import ClusterError


def test_other_error_of_an_actor_is_a_cluster_error():
    cause = "\n\nThe above exception was the direct cause of the following exception:\n\n"
    text = f"ray::ChunkActor.do()\n  File\nKeyError: 'x'{cause}UDF failed\nTo change"
    words = r"actors failed \(RayError: KeyError: 'x'\); run the job again"
    with pytest.raises(ClusterError, match=words):
        raise as_xrec_error(RayError(text))
