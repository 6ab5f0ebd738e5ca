"""What adapter training reads: examples, and their batches.

Global batches do not depend on the number of workers. A global batch has M micro-batches. The
examples are dealt into M lanes once, and micro-batch m of every step comes from lane m. Worker r of
W has the lanes r, r + W, and so on, so an example stays with one worker in all epochs, and so do
its keys and values in the worker's cache (xrec.llm.loss).

`xrec.train.example_shards` wrote the examples. Workers map the files, so all processes of a node
share their pages; a process itself needs some 40 bytes per example.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from xrec.config import TrainAdapterConfig
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.leave_out import TRAINING_VECTORS, TrainingVectors, read_training_vectors
from xrec.llm.loss import Example
from xrec.storage import (
    CHECKPOINTS,
    LocalLocation,
    Location,
    Manifest,
    fingerprint_of,
    location_of,
    open_location,
    read_content,
    read_manifest,
)
from xrec.train.ray_worker import local_rank, wait_for_workers

Lengths = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

_STEPS_SORTED_TOGETHER = 16
"""Number of steps whose examples are sorted by length together.

More steps mean less padding, but also less randomness in which examples share a step.
"""


class Examples:
    """The n examples of a split; `examples[row]` makes one.

    num_tokens, num_prefix_tokens, num_label_tokens: (n,) int32, the tokens of the whole example,
    before its first collaborative token, and in its explanation with the end token.
    """

    def __init__(self, files: Sequence[Path]):
        """Map the files, at least one (schema `xrec.train.example_shards.SHARD`)."""
        table = pa.concat_tables(feather.read_table(file, memory_map=True) for file in files)
        self._prompts, self._labels = table["prompt_ids"], table["label_ids"]
        self.num_prefix_tokens: Lengths = table["num_prefix_tokens"].to_numpy()
        self.num_label_tokens = _num_values(self._labels)
        self.num_tokens: Lengths = _num_values(self._prompts) + self.num_label_tokens

    def __len__(self) -> int:
        return len(self.num_tokens)

    def __getitem__(self, row: int) -> Example:
        return Example(self._prompts[int(row)].as_py(), self._labels[int(row)].as_py())

    def lengths(self, *, can_split: bool) -> Lengths:
        """Return the positions (n,) that each example costs, in terms of padding.

        can_split: `PrefixCache.can_split` of the model.
        """
        return self.num_tokens - self.num_prefix_tokens if can_split else self.num_tokens

    def weights(self, average_over: Literal["tokens", "explanations"]) -> Lengths:
        """Return how much each example counts (n,) in the mean loss (`ExplanationLoss`)."""
        is_by_token = average_over == "tokens"
        return self.num_label_tokens if is_by_token else np.ones_like(self.num_label_tokens)


def _num_values(lists: pa.ChunkedArray) -> Lengths:
    lengths: Lengths = pc.list_value_length(lists).to_numpy().astype(np.int32)
    return lengths


@dataclass(frozen=True)
class AdapterData:
    """What the adapter's workers read; `left_out` counts pairs without an example by reason.

    shared_ids: the text tokens that all prompts begin with.
    training_vectors: vectors of the explained training pairs, which follow the graph's own in the
        vocabulary; None if training shows the graph's own.
    """

    train: Examples
    validation: Examples
    shared_ids: list[int]
    left_out: Mapping[str, int]
    graph: GraphEmbeddings
    training_vectors: TrainingVectors | None = None

    def longest(self) -> tuple[int, int, int]:
        """Return the most tokens before the first collaborative one, after that, and of labels."""
        both = (self.train, self.validation)
        return (
            max(int(each.num_prefix_tokens.max()) for each in both),
            max(int(each.lengths(can_split=True).max()) for each in both),
            max(int(each.num_label_tokens.max()) for each in both),
        )


def load_adapter_data(config: TrainAdapterConfig) -> AdapterData:
    """Map the examples and read the vectors. Collective.

    Raises ArtifactMismatchError if a file of the examples differs from their manifest.
    """
    graph = read_graph(location_of(config, "graph"))
    manifest = read_manifest(examples_folder(config), "examples")
    with _files_on_this_node(examples_folder(config), manifest) as files:
        train, validation = (
            Examples([file for file in files if file.name.startswith(split)])
            for split in ("train", "validation")
        )
    metrics, vectors = manifest.metrics, training_vectors(config, graph)
    return AdapterData(
        train, validation, metrics["shared_ids"], metrics["left_out"], graph, vectors
    )


@contextmanager
def _files_on_this_node(folder: Location, manifest: Manifest) -> Iterator[list[Path]]:
    """Give the artifact's files, in order, on a disk of this node. Collective.

    One worker of the node reads and checks them. Remote files are copied into a temporary folder
    (TMPDIR), which is deleted after the block; files that were mapped there stay readable.
    """
    own, is_here = folder, isinstance(folder, LocalLocation)
    if not is_here:
        key = fingerprint_of([folder.uri, manifest.fingerprint])
        own = open_location(f"{tempfile.gettempdir()}/xrec-examples-{key}")
    if local_rank() == 0:
        for name in manifest.files:
            data = read_content(folder, manifest, name, remedy=f"delete {folder}, and run again")
            if not is_here:
                (own / name).write_bytes(data)
    wait_for_workers()
    yield [Path(own.path, name) for name in sorted(manifest.files)]
    wait_for_workers()
    if not is_here and local_rank() == 0:
        own.delete()


def examples_folder(config: TrainAdapterConfig) -> Location:
    """Return the folder of a run's examples."""
    return location_of(config, "adapter") / CHECKPOINTS / "examples"


def training_vectors(config: TrainAdapterConfig, graph: GraphEmbeddings) -> TrainingVectors | None:
    """Return the vectors of the explained training pairs; None if training shows others."""
    if not shows_training_vectors(config, graph.manifest):
        return None
    return read_training_vectors(location_of(config, "graph"), graph.manifest)


def shows_training_vectors(config: TrainAdapterConfig, graph: Manifest) -> bool:
    """Return whether training shows vectors from graphs that have not seen the pair.

    Random and constant vectors have seen none anyway.
    """
    shows_graph = config.training.leave_out == "own" and config.model.vectors == "graph"
    return shows_graph and TRAINING_VECTORS in graph.files


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward pass of one worker, by row.

    `weight` is the sum of its examples' weights in the mean loss, and `global_weight` that of the
    whole global batch.
    """

    rows: Rows
    weight: int
    global_weight: int


def noise_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return torch's seed (64 bits) for gating noise and dropout of a micro-batch of step `step`.

    `micro_batch` counts within the global batch rather than on a worker, so the noise does not
    depend on the number of workers or on restarts.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0])


def epoch_steps(
    lengths: Lengths,
    weights: Lengths,
    *,
    epoch: int,
    seed: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
) -> Iterator[list[MicroBatch]]:
    """Yield this worker's micro-batches, a list for each step.

    Examples that do not fill a global batch are dropped; which ones varies by epoch. The order
    depends only on `seed`, `epoch`, and the `lengths`. All rows of a step have similar lengths, so
    there is little padding and workers rarely wait for each other. If the micro-batches do not
    divide equally among the workers, the last workers get empty ones, because ZeRO-3 gathers
    weights on all workers at the same time. lengths, weights: (n,), of each example.
    """
    # Dealt in order of length, so that each lane has both short and long examples.
    ordered = _sorted(np.arange(len(lengths)), lengths)
    num_lanes = global_batch_size // micro_batch_size
    rng = np.random.default_rng([seed, epoch])
    orders = [rng.permutation(ordered[lane::num_lanes]) for lane in range(num_lanes)]
    num_steps = len(lengths) // global_batch_size
    for first in range(0, num_steps, _STEPS_SORTED_TOGETHER):
        count = min(_STEPS_SORTED_TOGETHER, num_steps - first)
        rows = slice(first * micro_batch_size, (first + count) * micro_batch_size)
        blocks = [_sorted(order[rows], lengths) for order in orders]
        for step in rng.permutation(count) * micro_batch_size:
            micro_batches = [block[step : step + micro_batch_size] for block in blocks]
            total = sum(int(weights[rows].sum()) for rows in micro_batches)
            yield [
                MicroBatch(rows, int(weights[rows].sum()), total)
                for rows in _share(micro_batches, rank, world_size)
            ]


def validation_batches(
    lengths: Lengths, *, batch_size: int, rank: int, world_size: int
) -> list[Rows]:
    """Return this worker's share of the validation examples, in batches of similar length.

    Each worker has the same number of batches, because ZeRO-3 gathers weights on all workers at the
    same time; a share may end with an empty batch. lengths: (n,).
    """
    ordered = _sorted(np.arange(len(lengths)), lengths)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return _share(batches, rank, world_size)


def _sorted(rows: Rows, lengths: Lengths) -> Rows:
    return rows[np.argsort(lengths[rows], kind="stable")]


def _share(batches: list[Rows], rank: int, world_size: int) -> list[Rows]:
    """Return every `world_size`-th batch from `rank` on; empty ones make the numbers equal."""
    empty = [np.empty(0, dtype=np.int64)] * (-len(batches) % world_size)
    return (batches + empty)[rank::world_size]
