"""Collaborative tokens: each id gets the vector of its own row through its own side's adapter."""

import pytest
import torch

from tests.world.models import NUM_ITEMS, NUM_USERS, attach_toy, toy_model, toy_vectors
from xrec.llm.collaborative import Vocabulary

V = 64


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_embedding_looks_up_words_and_the_tokens_of_users_and_items(num_tokens: int) -> None:
    model, (users, items) = toy_model(), toy_vectors()
    words = model.get_input_embeddings().weight.clone()
    embedding = attach_toy(model, "none", num_tokens=num_tokens)
    user_rows = embedding.user_adapter(users[[4]]).view(num_tokens, -1)
    item_rows = embedding.item_adapter(items[[6]]).view(num_tokens, -1)
    vocabulary = embedding.vocabulary
    ids = [3, *vocabulary.user_tokens(4), 0, *vocabulary.item_tokens(6), V - 1]
    expected = torch.cat([words[[3]], user_rows, words[[0]], item_rows, words[[V - 1]]])
    injected = torch.where(torch.tensor(ids)[:, None] >= V, expected, 0.0)
    found = embedding(torch.tensor([ids, ids[::-1]]))
    assert embedding.injection is not None
    for both, one in ((found, expected), (embedding.injection, injected)):
        torch.testing.assert_close(both, torch.stack([one, one.flip(0)]))


def test_embedding_of_text_is_bit_equal_and_forgets_the_last_injection() -> None:
    model = toy_model()
    plain = model.get_input_embeddings()
    embedding = attach_toy(model, "projected")
    embedding(torch.tensor([[V]]))
    input_ids = torch.arange(V)[None]
    assert torch.equal(embedding(input_ids), plain(input_ids))
    assert embedding.injection is None


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_embedding_id_beyond_the_last_raises_index_error(num_tokens: int) -> None:
    embedding = attach_toy(toy_model(), "none", num_tokens=num_tokens)
    with pytest.raises(IndexError):
        embedding(torch.tensor([[embedding.vocabulary.num_ids]]))


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_vocabulary_gives_each_token_an_id_of_its_own_that_shows_itself(num_tokens: int) -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens)
    of_users = [vocabulary.user_tokens(user) for user in range(NUM_USERS)]
    of_items = [vocabulary.item_tokens(item) for item in range(NUM_ITEMS)]
    firsts = [tokens[0] for tokens in of_users + of_items]
    assert firsts == list(range(V, V + NUM_USERS + NUM_ITEMS))
    ids = sorted(token for tokens in of_users + of_items for token in tokens)
    assert ids == list(range(V, vocabulary.num_ids))
    assert vocabulary.show(V - 1) is None
    assert {vocabulary.show(token) for token in of_users[2]} == {"<user 2>"}
    assert {vocabulary.show(token) for token in of_items[6]} == {"<item 6>"}


@pytest.mark.parametrize("index", [-1, 7])
def test_vocabulary_index_out_of_range_raises_value_error(index: int) -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS)
    with pytest.raises(ValueError, match=rf"user_index {index} is outside 0\.\.4"):
        vocabulary.user_tokens(index)
    with pytest.raises(ValueError, match=rf"item_index {index} is outside 0\.\.6"):
        vocabulary.item_tokens(index)
