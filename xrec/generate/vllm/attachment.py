"""The folder with adapter and graph vectors that every vLLM process reads beside the base model.

vLLM's workers are separate processes. Each one loads the adapters, which are small, and maps the
vectors into memory, so that all processes of a node share one copy.
"""

from pathlib import Path

import safetensors.torch
from torch import nn

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.config import config_bytes
from xrec.adapter.vectors import input_vectors
from xrec.generate.vllm.plugin import Attachment
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.storage import content_hash

_VECTORS = "vectors.safetensors"


def write_attachment(folder: Path, adapter: TrainedAdapter, graph: GraphEmbeddings) -> Attachment:
    """Write what the workers need to `folder` and return what vLLM must tell them.

    Raises ArtifactMismatchError if the adapter was not trained on this graph.
    """
    adapter.check_graph(graph.manifest.fingerprint)
    adapter.save_pretrained(folder)
    users, items = input_vectors(adapter.config.model, graph.users, graph.items)
    safetensors.torch.save_file(
        {"users": users.contiguous(), "items": items.contiguous()}, folder / _VECTORS
    )
    return Attachment(
        str(folder), adapter.adapters.injection, content_hash(config_bytes(adapter.config))
    )


def load_embedding(attachment: Attachment, token_embedding: nn.Module) -> CollaborativeEmbedding:
    """`token_embedding` with the users and items of the attachment's folder.

    The adapters get torch's default dtype and device; the vectors are mapped into memory.
    """
    adapters = TrainedAdapter.from_pretrained(attachment.folder).adapters
    vectors = safetensors.torch.load_file(Path(attachment.folder) / _VECTORS)
    return CollaborativeEmbedding(
        token_embedding,  # type: ignore[arg-type]
        vectors["users"],
        vectors["items"],
        adapters.user,
        adapters.item,
        adapters.user.num_tokens,
    )
