"""What a base model's folder lacks: adapter and graph table, in a folder that every vLLM process reads.

vLLM's workers are processes of their own. Each loads the small adapters, and maps the table into memory, so that one copy
serves all ranks of a node.
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
    """Write what the workers need to `folder`; raises ArtifactMismatchError for another graph than the adapter's."""
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
    """`token_embedding` with users and items: adapters in torch's default dtype and device, the table in mapped memory."""
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
