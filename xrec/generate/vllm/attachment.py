"""The folder with adapter and graph vectors that every vLLM process reads beside the base model.

vLLM's workers are separate processes. Each one loads the adapters, which are small, and maps the
tables of vectors into memory: all processes of a node share one copy. What is written into a table
by the process that made it is seen by the others, so rows can be reserved for users who come later.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.config import config_bytes
from xrec.adapter.model import input_vectors
from xrec.generate.vllm.plugin import Attachment
from xrec.generate.vllm.vectors import CollaborativeVectors
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import Vocabulary
from xrec.storage import content_hash

_TABLES = "tables.json"


def write_attachment(
    folder: Path, adapter: TrainedAdapter, graph: GraphEmbeddings
) -> tuple[Attachment, Tensor]:
    """Write what the workers need to `folder`; returns what vLLM must tell them.

    Beside it is the table of users (U, D) that they read, mapped into memory. Raises
    ArtifactMismatchError if the adapter was not trained on this graph.
    """
    adapter.check_graph(graph.manifest.fingerprint)
    adapter.save_pretrained(folder)
    users, items = input_vectors(adapter.config.model, graph.users, graph.items)
    shapes = {
        name: {"shape": list(table.shape), "dtype": str(table.dtype).removeprefix("torch.")}
        for name, table in (("users", users), ("items", items))
    }
    (folder / _TABLES).write_text(json.dumps(shapes))
    shared = _map_tables(folder)
    shared["users"].copy_(users)
    shared["items"].copy_(items)
    fingerprint = content_hash(config_bytes(adapter.config))
    return Attachment(str(folder), adapter.adapters.injection, fingerprint), shared["users"]


def load_vectors(attachment: Attachment, num_text_tokens: int) -> CollaborativeVectors:
    """The users and items of the attachment's folder, for a model with `num_text_tokens` words.

    The adapters get torch's default dtype and device; the tables are mapped into memory.
    """
    adapters = TrainedAdapter.from_pretrained(attachment.folder).adapters
    tables = _map_tables(Path(attachment.folder))
    vocabulary = Vocabulary(
        num_text_tokens, len(tables["users"]), len(tables["items"]), adapters.user.num_tokens
    )
    return CollaborativeVectors(
        vocabulary, tables["users"], tables["items"], adapters.user, adapters.item
    )


def _map_tables(folder: Path) -> dict[str, Tensor]:
    """The tables by name; a file that is not there is made, of zeros."""
    tables = {}
    for name, known in json.loads((folder / _TABLES).read_text()).items():
        num_rows, width = known["shape"]
        flat = torch.from_file(
            str(folder / f"{name}.bin"),
            shared=True,
            size=num_rows * width,
            dtype=getattr(torch, known["dtype"]),
            device="cpu",
        )
        tables[name] = flat.view(num_rows, width)
    return tables
