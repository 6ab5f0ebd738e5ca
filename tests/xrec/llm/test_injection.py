"""Collaborative tokens and their IDs, and injection in each family of models."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, PreTrainedModel

from tests.errors import raises
from tests.world.models import (
    FAMILIES,
    HEAD_DIM,
    HIDDEN_SIZE,
    NUM_HEADS,
    NUM_ITEMS,
    NUM_USERS,
    attach_toy,
    tiny_decoder,
    toy_model,
    toy_vectors,
)
from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding, Vocabulary

V = 64
PROMPT = torch.tensor(
    [[5, V + 3, 9, 9, V + NUM_USERS + 6, 17, 4], [V, 1, 2, V + NUM_USERS, V + NUM_USERS, 60, 61]]
)
RULES: list[Injection] = ["direct", "projected", "none"]


class Adding(nn.Module):
    """A projection to q, k or v, or to all three, that adds the rule's vectors itself."""

    def __init__(self, linear: nn.Linear, vectors: Tensor, rule: Injection):
        super().__init__()
        self.linear = linear
        self.added = vectors @ linear.weight.T if rule == "projected" else self._folded(vectors)

    def _folded(self, vectors: Tensor) -> Tensor:
        """Return the heads of `vectors` (B, S, H), averaged over groups where it is narrower.

        A fused projection has q, k and v side by side.
        """
        width = self.linear.out_features
        rest = (width - HIDDEN_SIZE) // 2
        widths = [HIDDEN_SIZE, rest, rest] if width > HIDDEN_SIZE else [width]
        heads, means = vectors.split(HEAD_DIM, dim=-1), []
        for group in [HIDDEN_SIZE // width for width in widths]:
            starts = range(0, NUM_HEADS, group)
            means += [sum(heads[start : start + group]) / group for start in starts]
        return torch.cat(means, dim=-1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden) + self.added


def adapted_by_hand(embedding: CollaborativeEmbedding) -> Tensor:
    """Return the adapter's vectors of the collaborative tokens of `PROMPT`, one at a time."""
    users, items = toy_vectors()
    rows = [
        embedding.user_adapter(users[[token - V]])
        if token < V + NUM_USERS
        else embedding.item_adapter(items[[token - V - NUM_USERS]])
        for token in PROMPT[PROMPT >= V].tolist()
    ]
    return torch.cat(rows)


def logits_by_hand(family: str, rule: Injection, **changes: int) -> Tensor:
    """Return the logits of `PROMPT` with `Adding` in place of hooks."""
    model = tiny_decoder(family, **changes)
    vectors = torch.zeros(*PROMPT.shape, HIDDEN_SIZE)
    vectors[PROMPT >= V] = adapted_by_hand(attach_toy(model, "none"))
    for layer in model.model.layers if rule != "none" else ():
        for name in ("q_proj", "k_proj", "v_proj", "qkv_proj"):
            if linear := getattr(layer.self_attn, name, None):
                setattr(layer.self_attn, name, Adding(linear, vectors, rule))
    return model(PROMPT).logits


def injected_logits(family: str, rule: Injection, **changes: int) -> Tensor:
    model = tiny_decoder(family, **changes)
    attach_toy(model, rule)
    return model(PROMPT).logits


HEADS = [{"num_key_value_heads": number} for number in (4, 1)]


@pytest.mark.parametrize(
    ("family", "rule", "changes"),
    [
        *((family, rule, {}) for family in FAMILIES for rule in RULES),
        *((family, "direct", heads) for family in ("llama", "phi3") for heads in HEADS),
    ],
)
@torch.no_grad()
def test_injection_equals_projections_that_add_the_vectors_themselves(family, rule, changes):
    expected = logits_by_hand(family, rule, **changes)
    found = injected_logits(family, rule, **changes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    if rule != "none":
        without = logits_by_hand(family, "none", **changes)
        assert (expected - without).abs().max() > 0.1  # the rule makes a difference here


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_injection_leaves_text_bit_equal_after_a_collaborative_prompt(rule):
    text = torch.tensor([[1, 2, 3, 63]])
    expected = toy_model()(text).logits
    model = toy_model()
    attach_toy(model, rule)
    model(PROMPT)
    assert torch.equal(model(text).logits, expected)


def unsupported(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=V, n_embd=HIDDEN_SIZE, n_layer=2, n_head=NUM_HEADS)
        ).eval()
    return MambaForCausalLM(
        MambaConfig(vocab_size=V, hidden_size=HIDDEN_SIZE, num_hidden_layers=2, state_size=4)
    ).eval()


@pytest.mark.parametrize(
    ("name", "code", "saw"),
    [("gpt2", "no_layers", "GPT2LMHeadModel"), ("mamba", "no_attention", [0, 1])],
)
@torch.no_grad()
def test_injection_refuses_an_unsupported_decoder_which_works_without(name, code, saw):
    model = unsupported(name)
    before = model(PROMPT.clamp_max(V - 1)).logits
    for rule in RULES[:2]:
        with raises(ModelError, code, key="model.injection", saw=saw):
            attach_toy(model, rule)
    assert torch.equal(model(PROMPT.clamp_max(V - 1)).logits, before)  # a refusal changes nothing
    attach_toy(model, "none")
    other_user = torch.where(PROMPT == V + 3, V + 2, PROMPT)
    assert not torch.allclose(model(PROMPT).logits[0, -1], model(other_user).logits[0, -1])


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
@torch.no_grad()
def test_injection_direct_refuses_queries_wider_than_the_hidden_size(family):
    model = tiny_decoder(family, head_dim=16, num_key_value_heads=1)
    text = torch.tensor([[1, 2, 3]])
    before = model(text).logits
    with raises(ModelError, "query_width", key="model.injection", saw=[64, 16, 16, 16, 32]):
        attach_toy(model, "direct")
    assert torch.equal(model(text).logits, before)
    attach_toy(model, "projected")
    assert model(PROMPT).logits.isfinite().all()


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
    found = embedding(torch.tensor([ids, [*ids[1:], ids[0]]]))
    assert embedding.injection is not None
    for both, one in ((found, expected), (embedding.injection, injected)):
        torch.testing.assert_close(both, torch.stack([one, one.roll(-1, 0)]))


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_vocabulary_gives_each_user_and_item_its_own_readable_ids(num_tokens: int) -> None:
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
    for tokens, index in itertools.product(
        (vocabulary.user_tokens, vocabulary.item_tokens), (-1, 7)
    ):
        with pytest.raises(ValueError, match=rf"index {index} is outside"):
            tokens(index)
