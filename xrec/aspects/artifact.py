"""The aspects artifact: the trained score.

weights.json            the trained numbers (`Weights`)
neighbours.safetensors  the cosines of each item's nearest ones: starts (I + 1,) int64,
                        items (n,) int32, cosines (n,) float32
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.numpy

from xrec.aspects.choice import AspectChooser
from xrec.aspects.mentions import (
    count_arrays,
    dataset_mentions,
    dataset_praise,
    mapped_counts,
    sparse_of,
)
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.config.prompt import PromptConfig, placeholder_names
from xrec.config.shared import StorageConfig
from xrec.data.dataset import ASPECTS_FROM, EXTENDS, Dataset
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.storage import (
    Arrays,
    Location,
    Manifest,
    ancestry,
    content_hash,
    fingerprint_of,
    mapped_arrays,
    open_location,
    read_content,
    read_manifest,
    write_contents,
    write_manifest,
)

WEIGHTS, NEIGHBOURS = "weights.json", "neighbours.safetensors"
_RULES = 1  # version of what is counted, in the name of the files of counts
SCORE = 2  # version of the score, a part of the artifact's config


def write_aspects(
    location: Location,
    scorer: AspectScorer,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest.

    `config` is that of `train-aspects`, with `min_item_reviews`.
    """
    contents = {
        WEIGHTS: (json.dumps(asdict(scorer.weights), indent=1) + "\n").encode(),
        NEIGHBOURS: safetensors.numpy.save(
            {
                "starts": scorer.neighbours.indptr.astype(np.int64),
                "items": scorer.neighbours.indices.astype(np.int32),
                "cosines": scorer.neighbours.data.astype(np.float32),
            }
        ),
    }
    files = write_contents(location, contents)
    return write_manifest(
        location,
        "aspects",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"items": scorer.mentions.num_items, "aspects": scorer.mentions.num_aspects},
        metrics=metrics,
    )


def aspects_of(
    prompt: PromptConfig, uri: str | None, dataset: Manifest, storage: StorageConfig
) -> Manifest | None:
    """The manifest of the aspects at `uri` if `prompt` asks for some, else None.

    Raises ConfigError if they are asked for and no URI is given, or if the prompt speaks of the
    item's reviews and the dataset has none, and what `read_aspects_manifest` raises.
    """
    if not prompt.aspects:
        return None
    _check_has_what_is_counted(prompt, dataset)
    if uri is None:
        raise ConfigError(
            f"the adapter's prompt has {prompt.aspects} aspects (prompt.aspects), and no artifact "
            "of aspects is given: give what `xrec train-aspects` made for the dataset"
        )
    return read_aspects_manifest(open_location(uri, storage), dataset)


def _check_has_what_is_counted(prompt: PromptConfig, dataset: Manifest) -> None:
    counts = [name for name in placeholder_names(prompt.aspect) if name.endswith("item_reviews")]
    if dataset.metrics.get(ASPECTS_FROM) == "profiles" and counts:
        raise ConfigError(
            f"prompt.aspect = {prompt.aspect!r}: the dataset's aspects are those of the items' "
            "profiles, so that there are no reviews to count; expected for example '{aspect}'"
        )


def read_aspects_manifest(location: Location, dataset: Manifest) -> Manifest:
    """Return the artifact's manifest.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if it is of
    another version, of another dataset than the one whose manifest is given, and of none that this
    one extends.
    """
    manifest = read_manifest(location, "aspects")
    if manifest.config.get("score") != SCORE:
        raise ArtifactMismatchError(
            f"{location}: a score of another version of xrec; run `xrec train-aspects` again"
        )
    if manifest.inputs["dataset"] not in ancestry(dataset, EXTENDS):
        raise ArtifactMismatchError(
            f"{location}: trained on dataset {manifest.inputs['dataset']}, but this one is "
            f"{dataset.fingerprint}; indices would not fit: run `xrec train-aspects` again, or "
            "give its dataset"
        )
    return manifest


def read_chooser(location: Location, dataset: Dataset) -> AspectChooser:
    """Return the chooser with the trained score; the counts come from `dataset`, as in training.

    Counts and neighbours are mapped files of this node. The dataset may have new users and items at
    its end (`xrec.graph.fold_in`), or extend that of the training: an item that the training did
    not know has no neighbours.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if it is of
    another dataset or a file is not what the manifest says.
    """
    manifest = read_aspects_manifest(location, dataset.manifest)
    remedy = "run `xrec train-aspects` again"
    weights = json.loads(read_content(location, manifest, WEIGHTS, remedy=remedy))
    num_items, later = dataset.num_items, dataset.later

    def neighbours() -> Arrays:
        content = read_content(location, manifest, NEIGHBOURS, remedy=remedy)
        parts = safetensors.numpy.load(content)
        starts = np.pad(parts["starts"], (0, num_items + 1 - len(parts["starts"])), mode="edge")
        return {"data": parts["cosines"], "indices": parts["items"], "indptr": starts}

    def counts() -> Arrays:
        return count_arrays(dataset_mentions(dataset, "train"), dataset_praise(dataset))

    near = mapped_arrays(f"{manifest.files[NEIGHBOURS]}-{num_items}.neighbours", neighbours)
    of = [_RULES, dataset.manifest.fingerprint, dataset.num_users, num_items]
    of += [] if later is None else [content_hash(later.tobytes())]
    mentions, praise = mapped_counts(mapped_arrays(f"{fingerprint_of(of)}.counts", counts), dataset)
    scorer = AspectScorer(mentions, sparse_of(near, num_items), Weights(**weights))
    return AspectChooser(scorer, manifest.config["min_item_reviews"], praise)
