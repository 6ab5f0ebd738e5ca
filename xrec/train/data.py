"""What the adapter's training reads: examples, and their batches.

Global batches are the same for any number of workers. A global batch has M micro-batches. The
examples are dealt into M lists once, the lanes, and micro-batch m of every step comes from lane m.
Worker r of W has the lanes r, r + W, and so on: an example stays with one worker in all epochs, and
so do its keys and values in the worker's cache (xrec.llm.prefix).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xrec.adapter.pairs import PairPrompts
from xrec.aspects import read_chooser
from xrec.config.adapter import TrainAdapterConfig, Weighting
from xrec.data.dataset import Dataset, read_dataset
from xrec.data.splits import drawn_explanations
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.graph.leave_out import TrainingVectors, read_training_vectors
from xrec.llm.collaborative import Vocabulary
from xrec.llm.examples import Example
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.storage import location_of

_STEPS_SORTED_TOGETHER = 16
"""Steps whose examples are sorted by length together.

More of them leave less padding, and leave less to chance which examples share a step.
"""


@dataclass(frozen=True)
class AdapterData:
    """What the adapter's workers read; `left_out` counts, by reason, pairs without an example.

    training_vectors: of the explained training pairs, behind the graph's own in the vocabulary;
        None if training shows the graph's own.
    """

    train: list[Example]
    validation: list[Example]
    left_out: Counter[str]
    graph: GraphEmbeddings
    training_vectors: TrainingVectors | None = None


def load_adapter_data(config: TrainAdapterConfig) -> AdapterData:
    """Read dataset and graph and build all examples; raises DataError if there are too few."""
    dataset = read_dataset(location_of(config, "dataset"))
    graph = read_graph(location_of(config, "graph"))
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    vectors = training_vectors(config, graph, dataset)
    prompts = _pair_prompts(config, dataset, vectors, folder)
    max_tokens = config.training.max_explanation_tokens
    leave_out_own = config.training.leave_out == "own"
    explained = drawn_explanations(
        dataset, dataset.explained_pairs("train"), config.training.max_pairs
    )
    train, left_out = prompts.examples(explained, max_tokens, leave_out_own=leave_out_own)
    held_out = dataset.explained_pairs("validation")
    validation, _ = prompts.examples(
        drawn_explanations(dataset, held_out, config.training.max_validation_pairs), max_tokens
    )
    if len(train) < config.training.global_batch_size or not validation:
        raise DataError(
            f"{len(train)} training and {len(validation)} validation pairs with an explanation "
            f"that fits ({dict(left_out)} left out); expected at least training.global_batch_size "
            f"= {config.training.global_batch_size} and 1: lower it, or raise the limits"
        )
    return AdapterData(train, validation, left_out, graph, vectors)


def training_vectors(
    config: TrainAdapterConfig, graph: GraphEmbeddings, dataset: Dataset
) -> TrainingVectors | None:
    """The vectors of the explained training pairs; None if others are to be shown.

    Random and constant ones have seen no pair.
    """
    if config.training.leave_out == "nothing" or config.model.vectors != "graph":
        return None
    return read_training_vectors(location_of(config, "graph"), graph.manifest, dataset)


def _pair_prompts(
    config: TrainAdapterConfig, dataset: Dataset, vectors: TrainingVectors | None, folder: Path
) -> PairPrompts:
    num_more = 0 if vectors is None else len(vectors.users)
    vocabulary = Vocabulary(
        read_text_config(folder).vocab_size,
        dataset.num_users + num_more,
        dataset.num_items + num_more,
        config.model.num_tokens,
    )
    builder = PromptBuilder(load_tokenizer(folder), config.prompt, vocabulary)
    chooser = (
        read_chooser(location_of(config, "aspects"), dataset) if config.prompt.aspects else None
    )
    return PairPrompts(dataset, builder, chooser, has_training_vectors=vectors is not None)


@dataclass(frozen=True)
class MicroBatch:
    """The examples of one forward pass of one worker.

    `num_global_tokens` and `num_global_pairs` are of the whole global batch.
    """

    examples: list[Example]
    num_global_tokens: int
    num_global_pairs: int

    def global_count(self, weighting: Weighting) -> int:
        """Of how many the global batch's loss is a mean."""
        return self.num_global_tokens if weighting == "tokens" else self.num_global_pairs


def noise_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return torch's seed, 64 bits, for gating noise and dropout of a micro-batch of step `step`.

    `micro_batch` counts within the global batch and not on a worker, so the noise depends neither
    on the number of workers nor on restarts.
    """
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0])


def epoch_steps(
    examples: Sequence[Example],
    *,
    epoch: int,
    seed: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    length: Callable[[Example], int] = len,
) -> Iterator[list[MicroBatch]]:
    """Yield this worker's micro-batches, a list for each step.

    What does not fill a global batch is left out, and it is other examples in each epoch. The order
    depends on `seed`, `epoch` and the lengths only. All rows of a step are of similar `length`, so
    that there is little padding and no worker waits for another. If the micro-batches do not divide
    equally among the workers, the last workers get empty ones, because ZeRO-3 gathers weights on
    all workers at the same time.
    """
    lanes = _lanes(examples, global_batch_size // micro_batch_size, length)
    rng = np.random.default_rng([seed, epoch])
    orders = [rng.permutation(lane) for lane in lanes]
    num_steps = len(examples) // global_batch_size
    for first in range(0, num_steps, _STEPS_SORTED_TOGETHER):
        count = min(_STEPS_SORTED_TOGETHER, num_steps - first)
        rows = slice(first * micro_batch_size, (first + count) * micro_batch_size)
        blocks = [_sorted(order[rows], examples, length) for order in orders]
        for step in rng.permutation(count) * micro_batch_size:
            micro_batches = [
                [examples[index] for index in block[step : step + micro_batch_size]]
                for block in blocks
            ]
            micro_batches += [[] for _ in range(-len(micro_batches) % world_size)]
            num_tokens = sum(len(row.label_ids) for rows in micro_batches for row in rows)
            yield [
                MicroBatch(rows, num_tokens, global_batch_size)
                for rows in micro_batches[rank::world_size]
            ]


def _lanes(
    examples: Sequence[Example], num_lanes: int, length: Callable[[Example], int]
) -> list[list[int]]:
    """Deal indices out in order of length, so that each lane has short and long examples alike."""
    ordered = _sorted(range(len(examples)), examples, length)
    return [ordered[lane::num_lanes] for lane in range(num_lanes)]


def _sorted(
    indices: Sequence[int] | np.ndarray,
    examples: Sequence[Example],
    length: Callable[[Example], int],
) -> list[int]:
    return sorted(map(int, indices), key=lambda index: length(examples[index]))


def validation_batches(
    examples: Sequence[Example],
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    length: Callable[[Example], int] = len,
) -> list[list[Example]]:
    """Return this worker's share of the validation examples, in batches of similar `length`.

    Each worker has the same number of batches, because ZeRO-3 gathers weights on all workers at the
    same time. If they do not divide equally, the share ends with an empty batch.
    """
    ordered = sorted(examples, key=length)
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    batches += [[] for _ in range(-len(batches) % world_size)]
    return batches[rank::world_size]
