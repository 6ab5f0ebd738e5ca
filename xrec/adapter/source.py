"""Where an adapter comes from: a folder, an s3:// folder or a hub id in, the folder's location out."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError
from xrec.llm.source import is_hub_id
from xrec.storage import Location, open_location

_FILES = ["*.json", "*.safetensors", "README.md"]


def open_adapter(source: str, storage: StorageConfig | None) -> Location:
    """The location of an adapter's folder, downloaded from the hub where `source` is a hub id; raises ArtifactNotFoundError."""
    return open_location(_from_hub(source) if is_hub_id(source) else source, storage)


def _from_hub(adapter_id: str) -> str:
    try:
        return str(Path(snapshot_download(adapter_id, allow_patterns=_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ArtifactNotFoundError(
            f"adapter {adapter_id!r}: neither a folder here nor to be had from the hub ({error}); check the path or id and the network, "
            "set HF_TOKEN for a private one"
        ) from error
