"""A trace of a few training steps of rank 0, for chrome://tracing or https://ui.perfetto.dev."""

import gzip
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from xrec.storage import Location

TRACE = "profile/trace.json.gz"

_STEPS_BEFORE = 2  # the first steps load kernels and fill caches


@contextmanager
def profiled_steps(num_steps: int, folder: Location) -> Iterator[Callable[[], None]]:
    """Give a function to call after each step; a trace of `num_steps` steps goes into `folder`.

    The trace begins after two steps. If fewer steps are made than asked for, it has those that
    were made, and it is not written if there are none. With 0 steps nothing is done.
    """
    if num_steps == 0:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(trace: profile) -> None:
        with tempfile.TemporaryDirectory(prefix="xrec-profile-") as temporary:
            path = Path(temporary) / "trace.json"
            trace.export_chrome_trace(str(path))
            (folder / TRACE).write_bytes(gzip.compress(path.read_bytes()))

    steps = schedule(wait=_STEPS_BEFORE - 1, warmup=1, active=num_steps, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as trace:
        yield trace.step
