"""The trained baseline as an artifact.

baseline.json        its sizes and its longest text
words.json           the vocabulary; models with a language model have that one's
weights.safetensors  all trained parameters of the best epoch, float32
history.json         a row for each epoch
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch

from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.build import Sizes, build_model
from xrec.lab.baselines.data import BaselineData, Codec
from xrec.lab.baselines.language_model import LanguageModelTokens, language_model_folder
from xrec.lab.baselines.models.model import Ratings, TrainedModel, load_parameters
from xrec.lab.baselines.words import Words
from xrec.storage import Manifest, read_content, read_manifest, write_contents, write_manifest
from xrec.train.checkpoint import Tensors

_ABOUT, _WORDS, _WEIGHTS = "baseline.json", "words.json", "weights.safetensors"


@dataclass(frozen=True)
class TrainedBaseline:
    """A model with what it writes: `max_words` is its longest text, in tokens without the end.

    codec: None of lora.
    """

    model: TrainedModel
    codec: Codec | None
    max_words: int
    manifest: Manifest


def write_baseline(
    baseline: Baseline,
    data: BaselineData,
    best: Tensors,
    history: Sequence[Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest."""
    about = {"sizes": asdict(Sizes.of(data)), "max_words": data.max_words}
    contents = {
        _ABOUT: json.dumps(about, indent=2).encode(),
        _WEIGHTS: safetensors.torch.save(best),
    }
    if isinstance(data.codec, Words):
        contents[_WORDS] = data.codec.to_bytes()
    location = baseline.model
    files = write_contents(location, contents)
    # Times are no part of what the artifact is.
    (location / "history.json").write_bytes(json.dumps(list(history), indent=2).encode())
    return write_manifest(
        location,
        "baseline",
        config=settings,
        inputs=inputs,
        files=files,
        row_counts={"train": len(data.train), "validation": len(data.validation)},
        metrics=metrics,
    )


def read_baseline(baseline: Baseline, device: torch.device | None = None) -> TrainedBaseline:
    """Return the trained baseline, in eval mode on `device`.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if a file
    is not what the manifest says; ModelError.
    """
    device = device or torch.device("cpu")
    manifest = read_manifest(baseline.model, "baseline")

    def content(name: str) -> bytes:
        remedy = "delete the baseline's folder and run xrec lab compare again"
        return read_content(baseline.model, manifest, name, remedy=remedy)

    about = json.loads(content(_ABOUT))
    model = build_model(baseline, _sizes(about["sizes"]), device)
    load_parameters(model, safetensors.torch.load(content(_WEIGHTS)))
    codec: Codec | None = None
    if baseline.kind == "pepler":
        codec = LanguageModelTokens(language_model_folder(baseline))
    elif baseline.kind != "lora":
        codec = Words.from_bytes(content(_WORDS))
    placed = model.requires_grad_(False).to(device).eval()
    return TrainedBaseline(placed, codec, about["max_words"], manifest)


def _sizes(values: Mapping[str, Any]) -> Sizes:
    ratings = values["ratings"]
    return Sizes(**{**values, "ratings": None if ratings is None else Ratings(**ratings)})
