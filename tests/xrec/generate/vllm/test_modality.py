"""vLLM's input of a prompt: place-holders, the adapters' vectors by value, hashes of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.world.models import NUM_ITEMS, NUM_USERS, toy_adapters, toy_vectors
from xrec.llm.collaborative import Vocabulary

pytest.importorskip("vllm", reason="vLLM is not installed here (the extra `vllm` brings it)")

V, H, PLACEHOLDER = 30, 32, 2
VOCABULARY = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens=2)
PROMPT = [3, *VOCABULARY.user_tokens(4), 2, *VOCABULARY.item_tokens(1), 5]


def made(users: Tensor, *, model: str = "a", dtype: torch.dtype = torch.float32) -> Any:
    from xrec.generate.vllm.modality import PromptInputs

    adapters = toy_adapters("projected", num_tokens=2)
    return PromptInputs(
        VOCABULARY,
        (users, toy_vectors()[1]),
        (adapters.user, adapters.item),
        model=model,
        placeholder=PLACEHOLDER,
        dtype=dtype,
    )


def test_input_has_placeholders_and_an_item_for_each_token_of_a_user_or_item():
    users, items = toy_vectors()
    given = made(users)(PROMPT)
    assert given["prompt_token_ids"] == [3, 2, 2, 2, 2, 2, 5]
    ranges = given["mm_placeholders"]["collaborative"]
    assert [(one.offset, one.length) for one in ranges] == [(1, 1), (2, 1), (4, 1), (5, 1)]
    adapters = toy_adapters("projected", num_tokens=2)
    expected = [adapters.user.eval()(users[4:5]), adapters.item.eval()(items[1:2])]
    vectors = [one["vectors"].data for one in given["mm_kwargs"]["collaborative"]]
    torch.testing.assert_close(torch.stack(vectors), torch.cat(expected).view(4, H).detach())


def test_input_of_text_has_no_items():
    given = made(toy_vectors()[0])([3, PLACEHOLDER, 4])
    assert given["type"] == "token"
    assert given["prompt_token_ids"] == [3, PLACEHOLDER, 4]


def test_identifiers_are_equal_where_vector_and_model_are_equal_and_only_there():
    users = toy_vectors()[0]
    users[3] = users[4]
    inputs, other = made(users), made(users, model="b")
    four, three, two = (
        tuple(inputs(VOCABULARY.user_tokens(user))["mm_hashes"]["collaborative"])
        for user in (4, 3, 2)
    )
    assert four == three
    others = other(VOCABULARY.user_tokens(4))["mm_hashes"]["collaborative"]
    assert len({*four, *two, *others}) == 6


def test_input_keeps_its_vectors_when_the_table_is_written():
    users = toy_vectors()[0]
    inputs = made(users, dtype=torch.bfloat16)
    before = inputs(PROMPT)
    item = before["mm_kwargs"]["collaborative"][0]["vectors"].data
    vector = item.clone()
    users[4] += 1
    assert item.dtype == torch.bfloat16
    assert torch.equal(item, vector)
    after = inputs(PROMPT)
    assert not torch.equal(after["mm_kwargs"]["collaborative"][0]["vectors"].data, vector)
    for place, same in enumerate((False, False, True, True)):
        hashes = (one["mm_hashes"]["collaborative"][place] for one in (before, after))
        assert (len(set(hashes)) == 1) == same
