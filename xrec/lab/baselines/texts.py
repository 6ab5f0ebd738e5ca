"""The texts of a trained baseline, by processes of Ray: greedy, many pairs together."""

import time
from collections.abc import Sequence

import torch

from xrec.bulk.work.pool import map_in_processes
from xrec.bulk.work.ray_actors import gpus_each
from xrec.data.dataset import read_dataset
from xrec.lab.baselines.artifact import read_baseline
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.data import aspect_ids, collate_pairs, load_choice
from xrec.lab.baselines.peter import PETER
from xrec.llm.model import resolve_device
from xrec.progress import progress

_AT_ONCE = 64
Pair = tuple[int, int]
"""The indices of user and item."""


class TextWriter:
    """Writes the texts of some pairs after the others, in a process that loads the baseline."""

    def __init__(self, baseline: Baseline) -> None:
        torch.set_num_threads(baseline.actors.cpus_per_actor)
        self._baseline = baseline
        self._device = resolve_device(baseline.actors.device)
        self._trained = read_baseline(baseline, self._device)
        self._choose = load_choice(baseline, read_dataset(baseline.open(baseline.dataset)))

    def write(self, pairs: Sequence[Pair]) -> tuple[list[str], float]:
        """The text of each pair, "" if it ends before its first word; and the seconds it took."""
        start, (model, codec) = time.monotonic(), (self._trained.model, self._trained.codec)
        assert isinstance(model, PETER)
        assert codec is not None
        users, items = [user for user, _ in pairs], [item for _, item in pairs]
        count = self._baseline.num_aspect_words
        aspects = [aspect_ids(codec, aspect, count) for aspect in self._choose(users, items)]
        read = collate_pairs(users, items, aspects).to(self._device)
        texts = model.write(read, self._trained.max_words)
        return list(map(codec.decode, texts)), time.monotonic() - start


def write_baseline_texts(baseline: Baseline, pairs: Sequence[Pair]) -> tuple[list[str], float]:
    """The text of each pair, and how many pairs a second a process wrote.

    Ray must be initialised. Raises ArtifactNotFoundError without a trained baseline, and the
    XRecError of a process, or ClusterError.
    """
    actors, starts = baseline.actors, range(0, len(pairs), _AT_ONCE)
    num_processes = min(actors.num_actors, len(starts))
    parts = map_in_processes(
        lambda: TextWriter(baseline).write,
        [pairs[start : start + _AT_ONCE] for start in starts],
        num_processes=num_processes,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, num_processes),
    )
    found = dict(progress(parts, "writing texts", len(starts)))
    texts = [text for place in sorted(found) for text in found[place][0]]
    return texts, len(pairs) / sum(seconds for _, seconds in found.values())
