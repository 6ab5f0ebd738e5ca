"""The trained baseline as an artifact, and its model with first weights.

baseline.json        its sizes and its longest text
words.json           the vocabulary; lora has none
weights.safetensors  all trained parameters of the best epoch, float32
history.json         a row for each epoch
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.codec import Words
from xrec.lab.baselines.data import BaselineData
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.peter import PETER
from xrec.llm.model import load_llm
from xrec.storage import Manifest, read_content, read_manifest, write_contents, write_manifest
from xrec.train.checkpoint import Tensors

_ABOUT, _WORDS, _WEIGHTS = "baseline.json", "words.json", "weights.safetensors"
_CPU = torch.device("cpu")
TrainedModel = PETER | LoRA


def build_model(
    baseline: Baseline, sizes: Mapping[str, int], device: torch.device = _CPU
) -> TrainedModel:
    """A model with weights that are drawn with the baseline's seed.

    sizes: `BaselineData.sizes`. `device` is where it will compute, and a language model is loaded.
    Raises ModelError if that cannot be had.
    """
    torch.manual_seed(baseline.seed)
    own: dict[str, Any] = dict(baseline.recipe.sizes)
    if baseline.kind == "lora":
        llm = load_llm(baseline.config.llm, baseline.llm_folder(), device)
        return LoRA(llm, **own)
    return PETER(**sizes, **own)


@dataclass(frozen=True)
class TrainedBaseline:
    """A model with what it writes: `max_words` is its longest text, in tokens without the end.

    codec: None of lora.
    """

    model: TrainedModel
    codec: Words | None
    max_words: int


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
    about = {"sizes": data.sizes, "max_words": data.max_words}
    contents = {
        _ABOUT: json.dumps(about, indent=2).encode(),
        _WEIGHTS: safetensors.torch.save(best),
    }
    if data.codec is not None:
        contents[_WORDS] = json.dumps(data.codec.pieces, ensure_ascii=False).encode()
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


def read_baseline(baseline: Baseline, device: torch.device = _CPU) -> TrainedBaseline:
    """Return the trained baseline, in eval mode on `device`.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if a file
    is not what the manifest says; ModelError.
    """
    manifest = read_manifest(baseline.model, "baseline")

    def content(name: str) -> bytes:
        remedy = "delete the baseline's folder and run xrec lab compare again"
        return read_content(baseline.model, manifest, name, remedy=remedy)

    about = json.loads(content(_ABOUT))
    model = build_model(baseline, about["sizes"], device)
    model.load_state_dict(safetensors.torch.load(content(_WEIGHTS)), strict=False)
    codec = None if baseline.kind == "lora" else Words(tuple(json.loads(content(_WORDS))))
    placed = model.requires_grad_(False).to(device).eval()
    return TrainedBaseline(placed, codec, about["max_words"])
