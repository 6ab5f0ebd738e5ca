"""A trained baseline as an artifact.

baseline.json        its sizes and maximum length
words.json           the vocabulary; lora and pepler have that of the language model
weights.safetensors  all trained parameters of the best epoch, float32
history.json         a row per epoch
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from xrec.lab.baselines.att2seq import Att2Seq
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.codec import Codec, LanguageModelTokens, Words
from xrec.lab.baselines.data import BaselineData
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.nrt import NRT
from xrec.lab.baselines.pepler import PEPLER
from xrec.lab.baselines.peter import PETER
from xrec.lab.baselines.writer import Trained, Writer
from xrec.llm.model import load_llm, load_tokenizer
from xrec.storage import Manifest, read_content, read_manifest, write_contents, write_manifest
from xrec.train.checkpoint import Tensors

_ABOUT, _WORDS, _WEIGHTS = "baseline.json", "words.json", "weights.safetensors"
_CPU = torch.device("cpu")
_OF_WORDS: Mapping[str, type[Writer]] = {"att2seq": Att2Seq, "nrt": NRT, "peter": PETER}


def build_model(
    baseline: Baseline, sizes: Mapping[str, int], device: torch.device = _CPU
) -> Trained:
    """Return an untrained model, with weights drawn by the baseline's seed.

    sizes: `BaselineData.sizes`. device: where a language model is loaded. Raises ModelError if
    there is no such model.
    """
    torch.manual_seed(baseline.seed)
    own: dict[str, Any] = dict(baseline.recipe.sizes)
    if baseline.kind in _OF_WORDS:
        return _OF_WORDS[baseline.kind](**sizes, **own)
    folder = baseline.llm_folder()
    llm = load_llm(baseline.config.llm, folder, device)
    if baseline.kind == "lora":
        return LoRA(llm, **own)
    end = LanguageModelTokens(load_tokenizer(folder)).end
    return PEPLER(llm, end, num_users=sizes["num_users"], num_items=sizes["num_items"])


@dataclass(frozen=True)
class TrainedBaseline:
    """A model, its codec (None for lora), and the maximum length of a text in tokens."""

    model: Trained
    codec: Codec | None
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
    """Write the artifact, and return its manifest, which is written last."""
    about = {"sizes": data.sizes, "max_words": data.max_words}
    contents = {
        _ABOUT: json.dumps(about, indent=2).encode(),
        _WEIGHTS: safetensors.torch.save(best),
    }
    if isinstance(data.codec, Words):
        contents[_WORDS] = json.dumps(data.codec.pieces, ensure_ascii=False).encode()
    location = baseline.model
    files = write_contents(location, contents)
    # It has times, which must not change the fingerprint.
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

    Raises ArtifactNotFoundError if the artifact is missing or unfinished, ArtifactMismatchError if
    a file is not the one in the manifest, and ModelError.
    """
    manifest = read_manifest(baseline.model, "baseline")

    def content(name: str) -> bytes:
        remedy = "delete the baseline's folder and run xrec lab compare again"
        return read_content(baseline.model, manifest, name, remedy=remedy)

    about = json.loads(content(_ABOUT))
    model = build_model(baseline, about["sizes"], device)
    model.load_state_dict(safetensors.torch.load(content(_WEIGHTS)), strict=False)
    codec: Codec | None = None
    if baseline.kind == "pepler":
        codec = LanguageModelTokens(load_tokenizer(baseline.llm_folder()))
    elif baseline.kind != "lora":
        codec = Words(tuple(json.loads(content(_WORDS))))
    placed = model.requires_grad_(False).to(device).eval()
    return TrainedBaseline(placed, codec, about["max_words"])
