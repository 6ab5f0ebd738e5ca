"""The adapter of the public XRec release, with the graph that it was trained on.

A converter turns the vectors of one graph into the space of one language model, so it is of no use
without that graph and that model.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.card import model_card
from xrec.config.adapter import AdapterModelConfig, ImportAdapterConfig
from xrec.data.dataset import read_dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.llm.model import read_text_config
from xrec.llm.source import model_fingerprint, public_name, resolve_model
from xrec.release.converter import read_converter
from xrec.release.vectors import VECTOR_FILES, read_release_vectors, write_release_graph
from xrec.storage import Manifest, content_hash, finished, location_of, open_location, read_manifest

logger = logging.getLogger("xrec")

CONVERTER_FILES = ("user_converter.pkl", "item_converter.pkl")
_ORIGIN = (
    "Imported by `xrec import-adapter` from the public XRec release (HKUDS/XRec); no weight was "
    "trained by xrec."
)
_LIMITS = (
    "The release's prompt ended in a marker token with a random vector, which is not part of the "
    "release, and put the item's token before the user's profile: its texts cannot be repeated to "
    "the letter.",
    "The release trained on a base model in 8 bits, and its graph has seen most of the pairs that "
    "it tests on: metrics on them are too good.",
)
_DROPOUT = 0.2  # that of the public training code; it has no effect outside training


def import_release(config: ImportAdapterConfig) -> Manifest:
    """Write the adapter, and the graph unless it is there; returns the adapter's manifest.

    If the same import was made before, its manifest is returned. Raises DataError if a file is
    missing, not one of the release, or of another dataset; ArtifactMismatchError if the model or
    the vectors have another width, or the output is of another run; ModelError if the language
    model cannot be read.
    """
    files = _read_files(
        config, (*CONVERTER_FILES, *VECTOR_FILES) if config.import_graph else CONVERTER_FILES
    )
    state, (num_experts, dim, hidden_size) = _read_converters(files)
    folder = resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    _check_hidden_size(
        read_text_config(folder).hidden_size,
        hidden_size,
        config.llm.model,
    )
    dataset, graph = _graph(config, files, dim)
    adapter = AdapterConfig(
        embedding_dim=dim,
        hidden_size=hidden_size,
        model=AdapterModelConfig(
            num_experts=num_experts, dropout=_DROPOUT, gating_noise=True, injection=config.injection
        ),
        prompt=config.prompt,
        base_model=public_name(config.llm.model),
        base_model_fingerprint=model_fingerprint(folder),
        graph_fingerprint=graph.fingerprint,
    )
    return _write(config, adapter, state, files=files, dataset=dataset)


def import_settings(config: ImportAdapterConfig) -> dict[str, Any]:
    """The settings that the imported adapter depends on."""
    values = config.model_dump(mode="json", include={"prompt", "injection"})
    return {"source": "xrec_release", **values}


def converter_hashes(config: ImportAdapterConfig) -> dict[str, str]:
    """A hash of each converter file of the release; raises DataError if one is missing."""
    return _hashes(_read_files(config, CONVERTER_FILES))


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: content_hash(files[name]) for name in CONVERTER_FILES}


def _read_files(config: ImportAdapterConfig, names: Sequence[str]) -> dict[str, bytes]:
    folder = open_location(config.release, config.storage)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: missing file(s) {', '.join(missing)}; expected a dataset's folder of the "
            f"public XRec release (data/yelp), saw {', '.join(folder.files()[:10]) or 'no files'}; "
            "check release (in a clone: git lfs pull)"
        )
    return {name: (folder / name).read_bytes() for name in names}


def _read_converters(files: Mapping[str, bytes]) -> tuple[dict[str, Tensor], tuple[int, int, int]]:
    """The tensors of both adapters, as `Adapters.state_dict` names them, and their K, D, H."""
    user, item = (read_converter(files[name], name) for name in CONVERTER_FILES)
    shapes = [tuple(side["weight"].shape) for side in (user, item)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"user_converter.pkl has (experts, D, H) = {shapes[0]}, item_converter.pkl "
            f"{shapes[1]}; expected equal shapes"
        )
    num_experts, dim, hidden_size = shapes[0]
    state = {
        f"{side}.{name}": tensor
        for side, part in (("user", user), ("item", item))
        for name, tensor in part.items()
    }
    return state, (num_experts, dim, hidden_size)


def _check_hidden_size(seen: int, expected: int, source: str) -> None:
    if seen != expected:
        raise ArtifactMismatchError(
            f"llm.model {source!r} has hidden_size {seen}, the converters were trained for "
            f"{expected}; give the release's model (Llama-2-7b-chat)"
        )


def _graph(
    config: ImportAdapterConfig, files: Mapping[str, bytes], dim: int
) -> tuple[Manifest, Manifest]:
    """The manifests of dataset and graph; the graph is made unless `import_graph` is false."""
    dataset_location = location_of(config, "dataset")
    location = location_of(config, "graph")
    if not config.import_graph:
        dataset, graph = (
            read_manifest(dataset_location, "dataset"),
            read_manifest(location, "graph"),
        )
        check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
        _check_dim(graph.config["model"]["embedding_dim"], dim, str(location))
        return dataset, graph
    whole = read_dataset(dataset_location)
    users, items = read_release_vectors(files, whole)
    _check_dim(users.shape[1], dim, "user_emb.pkl")
    return whole.manifest, write_release_graph(
        location, users, items, files=files, dataset=whole.manifest
    )


def _check_dim(seen: int, expected: int, source: str) -> None:
    if seen != expected:
        raise ArtifactMismatchError(
            f"{source}: vectors of {seen} numbers, the converters take {expected}; give the "
            "vectors that they were trained on"
        )


def _write(
    config: ImportAdapterConfig,
    adapter: AdapterConfig,
    state: dict[str, Tensor],
    *,
    files: Mapping[str, bytes],
    dataset: Manifest,
) -> Manifest:
    output = location_of(config, "adapter")
    run_config = import_settings(config)
    inputs = {
        "dataset": dataset.fingerprint,
        "graph": adapter.graph_fingerprint,
        "base_model": adapter.base_model_fingerprint,
        **_hashes(files),
    }
    done = finished(output, "adapter", run_config, inputs)
    if done is not None:
        logger.info("%s: already there", output)
        return done
    card = model_card(
        adapter, settings=config.card, origin=_ORIGIN, dataset=dataset, limits=_LIMITS
    )
    return write_adapter(
        output,
        state,
        adapter,
        run_config=run_config,
        inputs=inputs,
        metrics={},
        extra_files={},
        card=card,
    )
