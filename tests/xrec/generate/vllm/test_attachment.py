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
from xrec.generate.vllm.attachment import load_embedding, write_attachment
from xrec.llm.collaborative import CollaborativeEmbedding


def test_attachment_loaded_gives_the_vectors_of_adapter_and_graph(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("direct", graph)
    attachment = write_attachment(tmp_path / "attachment", adapter, graph)
    assert attachment.injection == "direct"
    words = nn.Embedding(V, H)
    ids = torch.tensor([3, V, 9, V + NUM_USERS - 1, V + NUM_USERS, V + NUM_USERS + NUM_ITEMS - 1])
    loaded = load_embedding(attachment, words)
    expected = CollaborativeEmbedding(
        words, graph.users, graph.items, adapter.adapters.user, adapter.adapters.item
    )
    assert torch.equal(loaded(ids), expected(ids))
    assert torch.equal(loaded.injection, expected.injection)
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
    loaded = load_embedding(
        write_attachment(tmp_path / "attachment", constant, graph), nn.Embedding(V, H)
    )
    users = loaded.adapt(torch.arange(V, V + NUM_USERS))
    assert torch.equal(users, users[:1].expand_as(users))


def test_attachment_hash_follows_the_adapters_config_and_not_the_folder(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "graph")
    direct, again, projected = (
        write_attachment(tmp_path / str(index), make_adapter(rule, graph), graph).compute_hash()
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


def test_plugin_imports_nothing_that_vllms_start_could_stumble_over() -> None:
    code = (
        "import sys, xrec.generate.vllm.plugin; "
        "print(sorted({'torch', 'torch_geometric', 'pandas', 'vllm'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )
