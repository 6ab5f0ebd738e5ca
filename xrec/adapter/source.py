"""Finds an adapter's folder: a local or s3:// folder, or a hub id that is downloaded."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError
from xrec.llm.source import is_hub_id
from xrec.storage import Location, open_location

_FILES = ["*.json", "*.safetensors", "README.md"]


def open_adapter(source: str, storage: StorageConfig | None) -> Location:
    """The location of the adapter's folder; if `source` is a hub id, it is downloaded first.

    Raises ArtifactNotFoundError if the hub does not give it.
    """
    return open_location(_from_hub(source) if is_hub_id(source) else source, storage)


def _from_hub(adapter_id: str) -> str:
    try:
        return str(Path(snapshot_download(adapter_id, allow_patterns=_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ArtifactNotFoundError(
            f"adapter {adapter_id!r}: it is no local folder, and the hub does not give it "
            f"({error}); check the path or id and the network, set HF_TOKEN for a private adapter"
        ) from error
