"""The stage before an adapter's workers: the prompts and explanations of pairs become token IDs.

They are written once, as shards in uncompressed Arrow beside the checkpoints, with a manifest that
is written last. Workers, also those of a resumed run, map them (`xrec.train.data`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from os.path import commonprefix  # it takes lists of token ids too
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import feather

from xrec.adapter.pairs import PairPrompts
from xrec.config import Split, TrainAdapterConfig
from xrec.data import Dataset, drawn_explanations, read_dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.llm.collaborative import Vocabulary
from xrec.llm.loss import num_prefix_tokens
from xrec.llm.model import load_tokenizer, read_text_config
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import resolve_model
from xrec.processes import map_in_processes, num_cpus
from xrec.progress import progress
from xrec.storage import Manifest, content_hash, finished, location_of, manifest_of, write_manifest
from xrec.train.data import examples_folder, shows_training_vectors

_PAIRS_PER_SHARD = 20_000
"""A shard takes some seconds and 20 MB. A billion pairs are 50,000 mapped files."""

SHARD = pa.schema(
    {
        "prompt_ids": pa.large_list(pa.int32()),
        "label_ids": pa.large_list(pa.int32()),
        "num_prefix_tokens": pa.int32(),
    }
)
"""Schema of a shard; `num_prefix_tokens` is the number before the first collaborative token."""

_SPLITS: tuple[Split, ...] = ("train", "validation")


class _Shard(NamedTuple):
    """A written shard; `left_out` counts pairs that it lacks by reason.

    shared_ids: the tokens that all its prompts begin with; None if it is empty.
    """

    name: str
    content_hash: str
    counts: Counter[str]
    left_out: Counter[str]
    shared_ids: list[int] | None


def write_examples(
    config: TrainAdapterConfig,
    run_config: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    pairs_per_shard: int = _PAIRS_PER_SHARD,
) -> Manifest:
    """Write the training and validation examples, unless they are finished; return the manifest.

    run_config, inputs: the settings and fingerprints that the adapter depends on. Raises DataError
    if there are too few examples.
    """
    folder = examples_folder(config)
    with suppress(ArtifactMismatchError):
        if (manifest := finished(folder, "examples", run_config, inputs)) is not None:
            return manifest
    folder.delete()
    shards = list(_written(config, pairs_per_shard))
    counts = sum((shard.counts for shard in shards), Counter[str]())
    left_out = sum((shard.left_out for shard in shards), Counter[str]())
    if counts["train"] < config.training.global_batch_size or not counts["validation"]:
        raise DataError(
            f"found {counts['train']} training and {counts['validation']} validation pairs that "
            f"fit the limits ({dict(left_out)} left out), expected at least "
            f"training.global_batch_size = {config.training.global_batch_size} and 1; lower it, "
            "or raise the limits",
            code="too_few_pairs",
            key="training.global_batch_size",
            saw=counts["train"],
        )
    beginnings = [shard.shared_ids for shard in shards if shard.shared_ids is not None]
    return write_manifest(
        folder,
        "examples",
        config=run_config,
        inputs=inputs,
        files={shard.name: shard.content_hash for shard in shards},
        row_counts=counts,
        metrics={"left_out": left_out, "shared_ids": commonprefix(beginnings)},  # noqa: RUF071
    )


def explained_pairs(config: TrainAdapterConfig, dataset: Dataset, split: Split) -> pa.Table:
    """Return a split's explanations, up to the configured maximum, in the dataset's order."""
    training = config.training
    most = training.max_pairs if split == "train" else training.max_validation_pairs
    pairs = dataset.explained_pairs(split)
    return pairs if most is None else drawn_explanations(dataset, pairs, most)


def _written(config: TrainAdapterConfig, pairs_per_shard: int) -> Iterable[_Shard]:
    """Write all shards, in any order: on all CPUs, or in this process if there are few."""
    writer = _Writer(config)
    parts = [
        (split, range(start, start + pairs_per_shard))
        for split, pairs in writer.explained.items()
        for start in range(0, pairs.num_rows, pairs_per_shard)
    ]
    if len(parts) <= len(writer.explained):
        return map(writer, parts)
    done = map_in_processes(partial(_Writer, config), parts, num_processes=num_cpus())
    return progress((shard for _, shard in done), "shards of examples", len(parts))


class _Writer:
    """Builds and writes examples; `explained` has the pairs of each split."""

    def __init__(self, config: TrainAdapterConfig):
        self._config = config
        dataset = read_dataset(location_of(config, "dataset"))
        self.explained = {split: explained_pairs(config, dataset, split) for split in _SPLITS}
        self._prompts = _pair_prompts(config, dataset)

    def __call__(self, part: tuple[Split, range]) -> _Shard:
        """Write the shard with a range of a split's pairs."""
        (split, places), training = part, self._config.training
        examples, left_out = self._prompts.examples(
            self.explained[split].slice(places.start, len(places)),
            training.max_explanation_tokens,
            leave_out_own=split == "validation" or training.leave_out == "own",
        )
        num_text_tokens = self._prompts.builder.vocabulary.num_text_tokens
        prompts = [list(each.prompt_ids) for each in examples]
        lengths = [num_prefix_tokens(ids, num_text_tokens) for ids in prompts]
        table = pa.table([prompts, [each.label_ids for each in examples], lengths], SHARD)
        sink = pa.BufferOutputStream()
        feather.write_feather(table, sink, compression="uncompressed")
        data = sink.getvalue().to_pybytes()
        name = f"{split}-{places.start:012d}.arrow"
        (examples_folder(self._config) / name).write_bytes(data)
        beginnings = [ids[:length] for ids, length in zip(prompts, lengths, strict=True)]
        return _Shard(
            name,
            content_hash(data),
            Counter({split: len(examples)}),
            left_out if split == "train" else Counter(),
            list(commonprefix(beginnings)) if beginnings else None,  # noqa: RUF071
        )


def _pair_prompts(config: TrainAdapterConfig, dataset: Dataset) -> PairPrompts:
    graph = manifest_of(config, "graph")
    has_training_vectors = shows_training_vectors(config, graph)
    num_more = dataset.explained_pairs("train").num_rows if has_training_vectors else 0
    folder = resolve_model(config.llm, config.storage)
    vocabulary = Vocabulary(
        read_text_config(folder).vocab_size,
        dataset.num_users + num_more,
        dataset.num_items + num_more,
        config.model.num_tokens,
    )
    builder = PromptBuilder(load_tokenizer(folder), config.prompt, vocabulary)
    return PairPrompts(dataset, builder, has_training_vectors=has_training_vectors)
