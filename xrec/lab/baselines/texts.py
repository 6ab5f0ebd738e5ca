"""Writes the texts of a trained baseline in Ray processes: greedy, in batches of pairs."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.data import TextExample, collate
from xrec.lab.baselines.writer import Writer
from xrec.llm.model import resolve_device
from xrec.processes import gpus_each, map_in_processes
from xrec.progress import progress

_AT_ONCE = 64
Pair = tuple[int, int]
"""The indices of user and item."""


def _load_writer(baseline: Baseline) -> Callable[[Sequence[Pair]], tuple[list[str], float]]:
    """Load the baseline in this process; return a function that writes the texts of some pairs.

    It returns the texts, "" for one that ends before its first word, and the seconds they took.
    """
    actors = baseline.config.actors
    torch.set_num_threads(actors.cpus)
    device = resolve_device(actors.device)
    trained = read_baseline(baseline, device)
    model, codec = trained.model, trained.codec
    assert isinstance(model, Writer)
    assert codec is not None

    def write(pairs: Sequence[Pair]) -> tuple[list[str], float]:
        start = time.monotonic()
        batch = collate([TextExample(*pair, ()) for pair in pairs])
        texts = model.write(batch.to(device), trained.max_words)
        return list(map(codec.decode, texts)), time.monotonic() - start

    return write


def write_baseline_texts(
    baseline: Baseline, pairs: Sequence[Pair], *, at_once: int = _AT_ONCE
) -> tuple[list[str], float]:
    """Return the text of each pair, and the pairs per second of one process; batches of `at_once`.

    Ray must be initialized. Raises ArtifactNotFoundError if there is no trained baseline, the
    XRecError of a process, and ClusterError.
    """
    actors, starts = baseline.config.actors, range(0, len(pairs), at_once)
    num_processes = min(actors.num_processes, len(starts))
    parts = map_in_processes(
        partial(_load_writer, baseline),
        [pairs[start : start + at_once] for start in starts],
        num_processes=num_processes,
        cpus=actors.cpus,
        gpus=gpus_each(actors.device, num_processes),
    )
    written = dict(progress(parts, "writing texts", len(starts)))
    texts = [text for part in sorted(written) for text in written[part][0]]
    return texts, len(pairs) / sum(seconds for _, seconds in written.values())
