"""Errors of processes, as the driver raises them."""

import pytest

from xrec.bulk.work.ray_actors import portable
from xrec.errors import ClusterError, UnknownIdError


def error_of(error: Exception) -> Exception:
    """An error that was raised, from another one."""
    try:
        try:
            raise KeyError("its cause")
        except KeyError as cause:
            raise error from cause
    except (UnknownIdError, ValueError) as raised:
        return raised


def test_own_error_of_a_process_keeps_its_attributes():
    error = portable(error_of(UnknownIdError("no user x", "user")))
    assert (type(error), str(error), error.reason) == (UnknownIdError, "no user x", "unknown_user")
    assert (error.__cause__, error.__traceback__) == (None, None)


def test_other_error_of_a_process_is_a_cluster_error_with_its_traceback():
    error = portable(error_of(ValueError("x is odd")))
    with pytest.raises(
        ClusterError, match=r"processes failed \(ValueError: x is odd\); run the job"
    ):
        raise error
    assert "KeyError: 'its cause'" in error.__notes__[0]
