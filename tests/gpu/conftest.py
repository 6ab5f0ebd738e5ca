"""The tests for a machine with an NVIDIA GPU; `make test-gpu` runs them.

Each compares a run on the GPU with the same run on the CPU. The device is a parameter: with `cpu` a
test belongs to the slow ones, and shows on any machine that its own logic is right.
"""

import pytest
import torch

from tests.xrec.train import conftest as training

DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cpu", marks=pytest.mark.slow)]

NO_GPU = "torch sees no NVIDIA GPU on this machine"

no_cpu_is_held_by_earlier_tests = training.no_cpu_is_held_by_earlier_tests
town = training.town


@pytest.fixture(params=DEVICES)
def device(request):
    """The device of the run that is tested."""
    return str(request.param)


@pytest.fixture
def skip_without_gpus(device):
    """Skip the test on a GPU if torch sees fewer than two; on a CPU there is always room."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"it needs two GPUs, torch sees {torch.cuda.device_count()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests on a GPU where there is none and other tests run too."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


def pytest_collection_finish(session: pytest.Session) -> None:
    """End a run of nothing but tests on a GPU where there is none, so that it does not pass."""
    are_on_gpu = [item.get_closest_marker("gpu") is not None for item in session.items]
    if are_on_gpu and all(are_on_gpu) and not torch.cuda.is_available():
        pytest.exit(f"{NO_GPU}: nothing was tested. Run this where there is one", returncode=1)
