"""Vectors of users and items equal those of transformers' side; no tensor is read for them.

vLLM's workers read the same vectors that were written.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fake_gpu import GPU, FakeGPU
from tests.toy import NUM_ITEMS, NUM_USERS, toy_adapters, toy_vectors
from tests.xrec.generate.vllm import vllm_town
from tests.xrec.generate.vllm.host_reads import HostReads
from xrec.config.adapter import Injection
from xrec.generate.vllm.vectors import (
    CollaborativeVectors,
    load_vectors,
    users_in,
    write_attachment,
)
from xrec.llm.collaborative import CollaborativeEmbedding, Vocabulary

V, H = 30, 32


def made(num_tokens: int) -> tuple[CollaborativeVectors, CollaborativeEmbedding]:
    adapters = toy_adapters("projected", num_tokens=num_tokens)
    users, items = toy_vectors()
    vectors = CollaborativeVectors(
        Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens), users, items, adapters.user, adapters.item
    )
    words = nn.Embedding(V, H)
    return vectors, CollaborativeEmbedding(
        words, users, items, adapters.user, adapters.item, num_tokens
    )


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_vectors_of_all_ids_are_those_of_the_embedding(num_tokens: int) -> None:
    vectors, embedding = made(num_tokens)
    ids = torch.arange(V, vectors.vocabulary.num_ids)
    torch.testing.assert_close(vectors(ids), embedding.adapt(ids))
    assert vectors.is_collaborative(ids).all()
    assert not vectors.is_collaborative(torch.arange(V)).any()


def test_users_in_a_prompt_are_found_by_all_of_their_ids() -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens=2)
    prompt = [3, *vocabulary.user_tokens(4), *vocabulary.item_tokens(1), *vocabulary.user_tokens(2)]
    assert users_in(prompt, vocabulary) == [2, 4]
    assert users_in([3, 4], vocabulary) == []


def test_vectors_are_computed_on_the_adapters_device_from_ids_on_the_host() -> None:
    vectors, embedding = made(2)
    ids = torch.tensor([V, V + 4, V + 5, V + 11, V + 12, V + 23])
    expected = embedding.adapt(ids)
    with FakeGPU():
        found = vectors.to(GPU)(ids)
        assert found.device == GPU
        torch.testing.assert_close(found.cpu(), expected)


def test_vectors_of_text_and_entities_need_no_read_of_a_tensor() -> None:
    vectors, embedding = made(2)
    ids = torch.tensor([3, V, 9, V + 20])
    with HostReads() as reads:
        vectors(ids)
        vectors.is_collaborative(ids)
    assert not reads.counts
    with HostReads() as reads:  # the count sees the reads of the other way to do it
        embedding(ids)
    assert reads.counts["aten::_local_scalar_dense"] >= 1
    assert reads.counts["aten::index"] >= 1


def written(folder: Path, rule: Injection) -> Any:
    """Graph, adapter, and what was written of them."""
    graph = vllm_town.make_graph(folder / "graph")
    adapter = vllm_town.make_adapter(rule, graph)
    return graph, adapter, *write_attachment(folder / "attachment", adapter, graph)


def test_attachment_loaded_gives_the_vectors_of_adapter_and_graph(tmp_path: Path) -> None:
    graph, adapter, attachment, _ = written(tmp_path, "direct")
    assert attachment.injection == "direct"
    first, users = vllm_town.V, NUM_USERS
    ids = torch.tensor([first, first + users - 1, first + users, first + users + NUM_ITEMS - 1])
    loaded = load_vectors(attachment, first)
    words, adapters = nn.Embedding(first, vllm_town.H), adapter.adapters
    expected = CollaborativeEmbedding(words, graph.users, graph.items, adapters.user, adapters.item)
    torch.testing.assert_close(loaded(ids), expected.adapt(ids))
    assert loaded.vocabulary == expected.vocabulary


def test_attachment_hash_follows_the_adapters_config_and_not_the_folder(tmp_path: Path) -> None:
    rules: tuple[Injection, ...] = ("direct", "direct", "projected")
    direct, again, projected = (
        written(tmp_path / str(number), rule)[2].compute_hash() for number, rule in enumerate(rules)
    )
    assert direct == again != projected


def test_attachment_other_processes_see_what_is_written_into_the_table_of_users(
    tmp_path: Path,
) -> None:
    """`safetensors` and `numpy` files would be copies; a reserved row must be seen by a worker."""
    graph, _, attachment, users = written(tmp_path, "direct")
    assert torch.equal(users, graph.users)
    users[2] = graph.users[4]
    ids = [vllm_town.V + 2, vllm_town.V + 4]
    assert torch.equal(*load_vectors(attachment, vllm_town.V)(torch.tensor(ids)))
    code = (
        "import sys, torch; from xrec.generate.vllm.vectors import load_vectors; "
        "from xrec.generate.vllm.plugin import Attachment; "
        "vectors = load_vectors(Attachment(sys.argv[1], 'direct', ''), int(sys.argv[2])); "
        f"print(torch.equal(*vectors(torch.tensor({ids}))))"
    )
    command = [sys.executable, "-c", code, attachment.folder, str(vllm_town.V)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "True"
    assert not torch.equal(graph.users[2], graph.users[4])  # the graph itself is as it was
