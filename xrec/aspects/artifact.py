"""The aspects artifact: the trained score.

weights.json            the trained numbers (`Weights`)
neighbours.safetensors  the cosines of each item's nearest ones: starts (I + 1,) int64,
                        items (n,) int32, cosines (n,) float32
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from xrec.config import (
    PromptConfig,
    StorageConfig,
    TrainAspectsConfig,
    identity_of,
    placeholder_names,
)
from xrec.data.dataset import ASPECTS_FROM, EXTENDS
from xrec.errors import ArtifactMismatchError, ConfigError
from xrec.storage import (
    Location,
    Manifest,
    ancestry,
    manifest_of,
    open_location,
    read_manifest,
    write_contents,
    write_manifest,
)

if TYPE_CHECKING:
    from xrec.aspects.scorer import AspectScorer  # it imports scipy

WEIGHTS, NEIGHBOURS = "weights.json", "neighbours.safetensors"
SCORE = 2  # version of the score, a part of the artifact's config


def aspects_identity(config: TrainAspectsConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the content depends on, and the dataset's fingerprint.

    Raises ArtifactNotFoundError without a dataset.
    """
    settings = identity_of(config) | {"score": SCORE}
    return settings, {"dataset": manifest_of(config, "dataset").fingerprint}


def write_aspects(
    location: Location,
    scorer: "AspectScorer",
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
            "of aspects is given: give what `xrec train-aspects` made for the dataset",
            code="no_aspects",
            key="prompt.aspects",
            saw=prompt.aspects,
        )
    return read_aspects_manifest(open_location(uri, storage), dataset)


def _check_has_what_is_counted(prompt: PromptConfig, dataset: Manifest) -> None:
    counts = [name for name in placeholder_names(prompt.aspect) if name.endswith("item_reviews")]
    if dataset.metrics.get(ASPECTS_FROM) == "profiles" and counts:
        raise ConfigError(
            f"prompt.aspect = {prompt.aspect!r}: the dataset's aspects are those of the items' "
            "profiles, so that there are no reviews to count; expected for example '{aspect}'",
            code="no_reviews_to_count",
            key="prompt.aspect",
            saw=prompt.aspect,
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
            f"{location}: a score of another version of xrec; run `xrec train-aspects` again",
            code="another_version",
            key=location.uri,
        )
    if manifest.inputs["dataset"] not in ancestry(dataset, EXTENDS):
        raise ArtifactMismatchError(
            f"{location}: trained on dataset {manifest.inputs['dataset']}, but this one is "
            f"{dataset.fingerprint}; indices would not fit: run `xrec train-aspects` again, or "
            "give its dataset",
            code="another_dataset",
            key="dataset",
            saw=dataset.fingerprint,
        )
    return manifest
