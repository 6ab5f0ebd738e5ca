"""The ranker: score = sum_f w_f (x_f - mean_f) / std_f, over the features of a candidate.

Its artifact is `ranker.json` with weights, means and standard deviations by feature.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xrec.errors import ArtifactMismatchError
from xrec.generate.candidates.features import FEATURES
from xrec.storage import Location, Manifest, content_hash, read_manifest, write_manifest

FILE = "ranker.json"


@dataclass(frozen=True)
class Ranker:
    """A linear score; each tuple has a number for each of FEATURES. `stds` are above 0."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def scores(self, features: Sequence[Sequence[float]]) -> NDArray[np.float64]:
        """The scores of N candidates, (N,); `features` is (N, F)."""
        table = np.asarray(features, dtype=np.float64).reshape(-1, len(FEATURES))
        scores: NDArray[np.float64] = (
            (table - np.array(self.means)) / np.array(self.stds)
        ) @ np.array(self.weights)
        return scores

    def best(self, features: Sequence[Sequence[float]]) -> int:
        """The place of the best of N candidates, the first one of equal ones."""
        return int(np.argmax(self.scores(features)))


def write_ranker(
    location: Location,
    ranker: Ranker,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    row_counts: Mapping[str, int],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest."""
    by_name = {
        name: dict(zip(FEATURES, part, strict=True)) for name, part in asdict(ranker).items()
    }
    content = (json.dumps(by_name, indent=1) + "\n").encode()
    (location / FILE).write_bytes(content)
    return write_manifest(
        location,
        "ranker",
        config=config,
        inputs=inputs,
        files={FILE: content_hash(content)},
        row_counts=row_counts,
        metrics=metrics,
    )


def read_ranker(location: Location) -> Ranker:
    """Return the ranker at `location`.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if its file
    is not what the manifest says, or is of an xrec with other features.
    """
    manifest = read_manifest(location, "ranker")
    content = (location / FILE).read_bytes()
    if content_hash(content) != manifest.files[FILE]:
        raise ArtifactMismatchError(
            f"{location / FILE}: its content is not what the manifest says; run "
            "`xrec train-ranker` again"
        )
    found = json.loads(content)
    if any(set(found[name]) != set(FEATURES) for name in ("weights", "means", "stds")):
        raise ArtifactMismatchError(
            f"{location / FILE}: it has the features {sorted(found['weights'])}, this xrec has "
            f"{sorted(FEATURES)}; run `xrec train-ranker` again"
        )
    return Ranker(
        *(
            tuple(float(found[name][feature]) for feature in FEATURES)
            for name in ("weights", "means", "stds")
        )
    )
