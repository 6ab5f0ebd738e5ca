"""The vectors of users and items by token id, computed without looking at what the ids are.

`CollaborativeEmbedding.adapt` (xrec.llm.collaborative) gives the same vectors, but it sorts ids
into users and items, and for that the host must read them. Here every id goes through both
adapters, and `torch.where` picks the right one. So a GPU is never waited for.

Every vLLM process reads adapters and tables of vectors from a folder beside the base model. It
loads the adapters, which are small, and maps the tables into memory: all processes of a node share
one copy. What is written into a table by the process that made it is seen by the others, so rows
can be reserved for users who come later.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.config import config_bytes
from xrec.adapter.model import input_vectors
from xrec.generate.vllm.plugin import Attachment
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import Vocabulary
from xrec.storage import content_hash

_TABLES = "tables.json"


def users_in(prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The indices of the users whose tokens are in `prompt`, in ascending order."""
    entities = {
        (token - vocabulary.num_text_tokens) % vocabulary.num_entities
        for token in prompt
        if token >= vocabulary.num_text_tokens
    }
    return sorted(entity for entity in entities if entity < vocabulary.num_users)


class CollaborativeVectors(nn.Module):
    """The adapters, and the tables of `vocabulary`'s users (U, D) and items (I, D).

    The tables stay in the host's memory and are neither parameters nor buffers; only the rows that
    are asked for move to the adapters' device.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        users: Tensor,
        items: Tensor,
        user_adapter: nn.Module,
        item_adapter: nn.Module,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.user_adapter = user_adapter
        self.item_adapter = item_adapter
        self._tables = (users, items)

    @property
    def num_text_tokens(self) -> int:
        """The number of ids that are text."""
        return self.vocabulary.num_text_tokens

    def is_collaborative(self, token_ids: Tensor) -> Tensor:
        """Whether each of `token_ids` (N,) is a user or an item; (N,) bool."""
        return token_ids >= self.vocabulary.num_text_tokens

    def forward(self, token_ids: Tensor) -> Tensor:
        """The adapted vectors (N, H) of `token_ids` (N,), which are in the host's memory.

        The result is on the adapters' device. The row of a text token has no meaning.
        """
        vocabulary = self.vocabulary
        place = (token_ids.long() - vocabulary.num_text_tokens).clamp(min=0)
        number, entity = place // vocabulary.num_entities, place % vocabulary.num_entities
        user = entity.clamp(max=vocabulary.num_users - 1)
        item = (entity - vocabulary.num_users).clamp(min=0)
        both = torch.where(
            self._to_device(entity < vocabulary.num_users)[:, None],
            self.user_adapter(self._to_device(self._tables[0][user])),
            self.item_adapter(self._to_device(self._tables[1][item])),
        )
        # (N, k H): the vectors of all k tokens of each id's user or item. Each id picks its part.
        of_tokens = both.unflatten(-1, (vocabulary.num_tokens, -1))
        rows = torch.arange(len(of_tokens), device=of_tokens.device)
        picked: Tensor = of_tokens[rows, self._to_device(number)]
        return picked

    def _to_device(self, values: Tensor) -> Tensor:
        device = next(self.user_adapter.parameters()).device
        return values.to(device, non_blocking=True)


def write_attachment(
    folder: Path, adapter: TrainedAdapter, graph: GraphEmbeddings
) -> tuple[Attachment, Tensor]:
    """Write what the workers need to `folder`; returns what vLLM must tell them.

    Beside it is the table of users (U, D) that they read, mapped into memory.
    """
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
