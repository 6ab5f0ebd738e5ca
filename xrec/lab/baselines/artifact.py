"""The trained peer as an artifact.

peer.json            its kind, the model's section of its config, its sizes and its longest text
words.json           the vocabulary; PEPLER has that of its language model
weights.safetensors  all parameters of the best epoch, float32
history.json         a row for each epoch
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch

from xrec.config.baselines import PeerConfig, PeerKind
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError
from xrec.lab.baselines.build import PeerSizes, build_peer
from xrec.lab.baselines.data import Codec, PeerData
from xrec.lab.baselines.language_model import (
    LanguageModelTokens,
    language_model_fingerprint,
    language_model_folder,
)
from xrec.lab.baselines.models.peer import Peer, Ratings, load_parameters
from xrec.lab.baselines.words import Words
from xrec.storage import (
    Location,
    Manifest,
    read_content,
    read_manifest,
    write_contents,
    write_manifest,
)
from xrec.train.checkpoint import Tensors

PEER, WORDS, WEIGHTS, HISTORY = "peer.json", "words.json", "weights.safetensors", "history.json"


@dataclass(frozen=True)
class TrainedPeer:
    """A peer that writes.

    `max_words` is its longest text, in tokens without the end, and `num_aspect_words` how many
    words of aspects it reads.
    """

    kind: PeerKind
    model: Peer
    codec: Codec
    max_words: int
    num_aspect_words: int
    manifest: Manifest


def sizes_of(data: PeerData) -> PeerSizes:
    """How many users, items and tokens a peer of the data knows."""
    return PeerSizes(
        data.num_users, data.num_items, len(data.codec), data.num_aspect_words, data.ratings
    )


def write_peer(
    location: Location,
    config: PeerConfig,
    data: PeerData,
    best: Tensors,
    history: Sequence[Mapping[str, Any]],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write the artifact, its manifest last, and return the manifest."""
    described = {
        "kind": config.kind,
        "model": config.model_dump(mode="json", include={config.section}),
        "sizes": asdict(sizes_of(data)),
        "max_words": data.max_words,
    }
    contents = {
        PEER: json.dumps(described, indent=2).encode(),
        WEIGHTS: safetensors.torch.save(best),
    }
    if isinstance(data.codec, Words):
        contents[WORDS] = data.codec.to_bytes()
    files = write_contents(location, contents)
    # Times are no part of what the artifact is.
    (location / HISTORY).write_bytes(json.dumps(list(history), indent=2).encode())
    return write_manifest(
        location,
        "peer",
        config=settings,
        inputs=inputs,
        files=files,
        row_counts={"train": len(data.train), "validation": len(data.validation)},
        metrics=metrics,
    )


def read_peer(
    location: Location,
    device: torch.device | None = None,
    llm: LLMConfig | None = None,
    storage: StorageConfig | None = None,
) -> TrainedPeer:
    """Return the trained peer, in eval mode on `device`; PEPLER needs its language model, `llm`.

    Raises ArtifactNotFoundError if there is no finished artifact, ArtifactMismatchError if a file
    is not what the manifest says, or the language model is another one; ModelError.
    """
    device = device or torch.device("cpu")
    manifest = read_manifest(location, "peer")
    described = json.loads(_content(location, manifest, PEER))
    config = PeerConfig(
        workspace=".",
        kind=described["kind"],
        llm=llm,
        storage=storage or StorageConfig(),
        **described["model"],
    )
    if config.kind == "pepler":
        _check_base_model(location, config, manifest)
    model = build_peer(config, _sizes(described["sizes"]), device)
    load_parameters(model, safetensors.torch.load(_content(location, manifest, WEIGHTS)))
    model.requires_grad_(False)
    codec: Codec = (
        LanguageModelTokens(language_model_folder(config))
        if config.kind == "pepler"
        else Words.from_bytes(_content(location, manifest, WORDS))
    )
    placed = model.to(device).eval()
    return TrainedPeer(
        config.kind,
        placed,
        codec,
        described["max_words"],
        described["sizes"]["num_aspect_words"],
        manifest,
    )


def _check_base_model(location: Location, config: PeerConfig, manifest: Manifest) -> None:
    here, there = language_model_fingerprint(config), manifest.inputs["base_model"]
    if here != there:
        raise ArtifactMismatchError(
            f"{location}: trained from the language model {there}, and llm.model is {here}; give "
            "the one that it was trained from"
        )


def _sizes(values: Mapping[str, Any]) -> PeerSizes:
    ratings = values["ratings"]
    return PeerSizes(**{**values, "ratings": None if ratings is None else Ratings(**ratings)})


def _content(location: Location, manifest: Manifest, name: str) -> bytes:
    remedy = "delete the peer and run `xrec peer` again"
    return read_content(location, manifest, name, remedy=remedy)
