"""Collaborative tokens: each id reaches its own row and its own adapter."""

import pytest
import torch

from tests.toy import NUM_ITEMS, NUM_USERS, attach_toy, toy_model, toy_vectors
from xrec.llm.collaborative import Vocabulary

V = 64


def test_embedding_looks_up_words_users_and_items() -> None:
    model = toy_model()
    words = model.get_input_embeddings().weight.clone()
    embedding = attach_toy(model, "none")
    users, items = toy_vectors()
    input_ids = torch.tensor([[3, V + 4, V + NUM_USERS, 0], [V + NUM_USERS + 6, V, V, V - 1]])
    item_rows, user_rows = embedding.item_adapter(items[[0, 6]]), embedding.user_adapter(users[[4, 0]])

    embeds = embedding(input_ids)

    expected = torch.stack(
        [
            torch.stack([words[3], user_rows[0], item_rows[0], words[0]]),
            torch.stack([item_rows[1], user_rows[1], user_rows[1], words[V - 1]]),
        ]
    )
    torch.testing.assert_close(embeds, expected)
    assert embedding.injection is not None
    is_collaborative = (input_ids >= V)[..., None]
    torch.testing.assert_close(embedding.injection, torch.where(is_collaborative, expected, 0.0))
    assert torch.count_nonzero(embedding.injection[0, 0]) == 0


def test_embedding_of_text_is_bit_equal_and_forgets_the_last_injection() -> None:
    model = toy_model()
    plain = model.get_input_embeddings()
    embedding = attach_toy(model, "projected")
    embedding(torch.tensor([[V]]))
    input_ids = torch.arange(V)[None]
    assert torch.equal(embedding(input_ids), plain(input_ids))
    assert embedding.injection is None


def test_embedding_id_beyond_the_last_item_raises_index_error() -> None:
    embedding = attach_toy(toy_model(), "none")
    with pytest.raises(IndexError):
        embedding(torch.tensor([[embedding.vocabulary.num_ids]]))


def test_embedding_vectors_are_neither_weights_nor_state() -> None:
    model = toy_model()
    num_before = sum(parameter.numel() for parameter in model.parameters())
    embedding = attach_toy(model, "projected")
    num_adapters = sum(parameter.numel() for side in (embedding.user_adapter, embedding.item_adapter) for parameter in side.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == num_before + num_adapters
    assert not any(tensor.shape in {vectors.shape for vectors in toy_vectors()} for tensor in model.state_dict().values())
    assert {name.split(".")[-2] for name, parameter in model.named_parameters() if parameter.requires_grad} == {"user_adapter", "item_adapter"}


def test_vocabulary_ids_follow_each_other_and_show_themselves() -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS)
    ids = [vocabulary.user_token(user) for user in range(NUM_USERS)] + [vocabulary.item_token(item) for item in range(NUM_ITEMS)]
    assert ids == list(range(V, V + NUM_USERS + NUM_ITEMS))
    assert vocabulary.num_ids == V + NUM_USERS + NUM_ITEMS
    assert [vocabulary.show(token) for token in (V - 1, V, V + NUM_USERS)] == [None, "<user 0>", "<item 0>"]


@pytest.mark.parametrize("index", [-1, 7])
def test_vocabulary_index_out_of_range_raises_value_error(index: int) -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS)
    with pytest.raises(ValueError, match=rf"user_index {index} is outside 0\.\.4"):
        vocabulary.user_token(index)
    with pytest.raises(ValueError, match=rf"item_index {index} is outside 0\.\.6"):
        vocabulary.item_token(index)
