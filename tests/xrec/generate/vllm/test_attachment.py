"""vLLM's workers read the same vectors that were written; another graph is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.toy import NUM_ITEMS, NUM_USERS
from tests.xrec.generate.vllm.vllm_town import H, V, make_adapter, make_graph
from xrec.errors import ArtifactMismatchError
from xrec.generate.vllm.attachment import load_vectors, write_attachment
from xrec.llm.collaborative import CollaborativeEmbedding


def test_attachment_loaded_gives_the_vectors_of_adapter_and_graph(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("direct", graph)
    attachment, _ = write_attachment(tmp_path / "attachment", adapter, graph)
    assert attachment.injection == "direct"
    ids = torch.tensor([V, V + NUM_USERS - 1, V + NUM_USERS, V + NUM_USERS + NUM_ITEMS - 1])
    loaded = load_vectors(attachment, V)
    expected = CollaborativeEmbedding(
        nn.Embedding(V, H), graph.users, graph.items, adapter.adapters.user, adapter.adapters.item
    )
    torch.testing.assert_close(loaded(ids), expected.adapt(ids))
    assert loaded.vocabulary == expected.vocabulary


def test_attachment_reads_the_stand_ins_of_an_ablation(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("none", graph)
    constant = replace(
        adapter,
        config=adapter.config.model_copy(
            update={"model": adapter.config.model.model_copy(update={"vectors": "constant"})}
        ),
    )
    attachment, _ = write_attachment(tmp_path / "attachment", constant, graph)
    loaded = load_vectors(attachment, V)
    users = loaded(torch.arange(V, V + NUM_USERS))
    assert torch.equal(users, users[:1].expand_as(users))


def test_attachment_hash_follows_the_adapters_config_and_not_the_folder(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    direct, again, projected = (
        write_attachment(tmp_path / str(index), make_adapter(rule, graph), graph)[0].compute_hash()
        for index, rule in enumerate(["direct", "direct", "projected"])
    )
    assert direct == again != projected


def test_attachment_of_another_graph_is_refused(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("direct", graph)
    other = replace(
        adapter, config=adapter.config.model_copy(update={"graph_fingerprint": "another"})
    )
    with pytest.raises(ArtifactMismatchError, match="trained on graph another"):
        write_attachment(tmp_path / "attachment", other, graph)


def test_attachment_other_processes_see_what_is_written_into_the_table_of_users(
    tmp_path: Path,
) -> None:
    """`safetensors` and `numpy` files would be copies; a reserved row must be seen by a worker."""
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("direct", graph)
    attachment, users = write_attachment(tmp_path / "attachment", adapter, graph)
    assert torch.equal(users, graph.users)
    loaded = load_vectors(attachment, V)
    users[2] = graph.users[4]
    ids = torch.tensor([V + 2, V + 4])
    assert torch.equal(*loaded(ids))
    code = (
        "import sys, torch; from xrec.generate.vllm.attachment import load_vectors; "
        "from xrec.generate.vllm.plugin import Attachment; "
        "vectors = load_vectors(Attachment(sys.argv[1], 'direct', ''), int(sys.argv[2])); "
        f"print(torch.equal(*vectors(torch.tensor({ids.tolist()}))))"
    )
    command = [sys.executable, "-c", code, attachment.folder, str(V)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "True"
    assert not torch.equal(graph.users[2], graph.users[4])  # the graph itself is as it was
