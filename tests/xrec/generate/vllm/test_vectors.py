"""Vectors of users and items equal those of transformers' side; no tensor is read for them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.fake_gpu import GPU, FakeGPU
from tests.toy import NUM_ITEMS, NUM_USERS, toy_adapters, toy_vectors
from tests.xrec.generate.vllm.host_reads import HostReads
from xrec.generate.vllm.vectors import CollaborativeVectors, users_in, without_injection
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
def test_vectors_of_all_ids_and_their_second_ids_are_those_of_the_embedding(
    num_tokens: int,
) -> None:
    vectors, embedding = made(num_tokens)
    ids = torch.arange(V, vectors.vocabulary.num_ids)
    expected = embedding.adapt(ids)
    torch.testing.assert_close(vectors(ids), expected)
    second = torch.tensor(without_injection(ids.tolist(), vectors.vocabulary))
    assert set(second.tolist()).isdisjoint([*range(V), *ids.tolist()])
    torch.testing.assert_close(vectors(second), expected)
    assert vectors.is_injected(ids).all()
    assert not vectors.is_injected(second).any()
    assert vectors.is_collaborative(torch.cat([ids, second])).all()


def test_without_injection_leaves_text_as_it_is() -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS)
    prompt = [3, V + 1, V - 1, V + NUM_USERS]
    entities = NUM_USERS + NUM_ITEMS
    expected = [3, V + 1 + entities, V - 1, V + NUM_USERS + entities]
    assert without_injection(prompt, vocabulary) == expected


def test_users_in_a_prompt_are_found_by_all_of_their_ids() -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens=2)
    prompt = [3, *vocabulary.user_tokens(4), *vocabulary.item_tokens(1), *vocabulary.user_tokens(2)]
    assert users_in(prompt, vocabulary) == [2, 4]
    assert users_in(without_injection(prompt, vocabulary), vocabulary) == [2, 4]
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
        vectors.is_injected(ids)
    assert not reads.counts
    with HostReads() as reads:  # the count sees the reads of the other way to do it
        embedding(ids)
    assert reads.counts["aten::_local_scalar_dense"] >= 1
    assert reads.counts["aten::index"] >= 1


def test_tables_are_in_no_checkpoint(tmp_path: Path) -> None:
    vectors, _ = made(1)
    assert all(name.startswith(("user_adapter", "item_adapter")) for name in vectors.state_dict())
