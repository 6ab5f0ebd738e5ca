"""Adapters on a model: the model is frozen, the adapters are trained and change the logits."""

import pytest
import torch
from torch import Tensor, nn

from tests.world.models import (
    FAMILIES,
    HIDDEN_SIZE,
    NUM_USERS,
    attach_toy,
    tiny_decoder,
    toy_adapters,
    toy_model,
    toy_vectors,
)
from xrec.adapter.model import embedding_scale, input_vectors
from xrec.config.adapter import AdapterModelConfig
from xrec.errors import ModelError

V = 64


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["direct", "projected"])
def test_attach_freezes_the_model_and_a_step_changes_adapters_only(rule, family):
    model = tiny_decoder(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedding = attach_toy(model, rule)
    adapters_before = [parameter.clone() for parameter in embedding.user_adapter.parameters()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.tensor([[V, 5, V + 5, 6]])
    embedding.train()
    model(ids, labels=ids.clamp_max(V - 1)).loss.backward()
    with_gradient = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    assert with_gradient == {name for name, _ in model.named_parameters() if "_adapter." in name}
    torch.optim.AdamW(trainable, lr=0.1).step()

    after = model.state_dict()
    renamed = {
        name.replace("embed_tokens.weight", "embed_tokens.token_embedding.weight"): tensor
        for name, tensor in before.items()
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in renamed.items())
    assert all(
        not torch.equal(new, old)
        for new, old in zip(embedding.user_adapter.parameters(), adapters_before, strict=True)
    )


def test_attach_leaves_a_tied_head_tied_to_the_words():
    model = toy_model(tied=True)
    words = model.get_input_embeddings().weight
    attach_toy(model, "none")
    assert model.lm_head.weight is words
    assert model(torch.tensor([[V, 5]])).logits.shape == (1, 2, V)


def test_adapters_state_is_a_float32_copy_by_side():
    adapters = toy_adapters("direct")
    adapters.user.bfloat16()
    state = adapters.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    fresh = toy_adapters("direct", seed=1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.item.weight, adapters.item.weight)


def entering_first_layer(model: nn.Module, input_ids: Tensor) -> Tensor:
    """The input (B, S, H) of the first layer for `input_ids`."""
    seen: list[Tensor] = []
    handle = model.model.layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    model(input_ids)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_embedding_scale_is_the_root_mean_square_of_all_words_at_the_first_layer(family):
    model = tiny_decoder(family)
    values = entering_first_layer(model, torch.arange(V)[None]).flatten().tolist()
    assert embedding_scale(model) == pytest.approx(
        (sum(value**2 for value in values) / len(values)) ** 0.5, rel=1e-6
    )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attach_vectors_enter_the_first_layer_as_the_adapter_gives_them_beside_words_as_ever(
    family,
):
    model = tiny_decoder(family)
    words = entering_first_layer(model, torch.tensor([[5, 9]]))
    embedding = attach_toy(model, "projected")
    entered = entering_first_layer(model, torch.tensor([[5, V + 1, 9, V + NUM_USERS]]))
    assert torch.equal(entered[:, ::2], words)
    users, items = toy_vectors()
    assert torch.equal(entered[0, 1], embedding.user_adapter(users[1:2])[0])
    assert torch.equal(entered[0, 3], embedding.item_adapter(items[:1])[0])


def other_width() -> nn.Module:
    return tiny_decoder("llama", hidden_size=2 * HIDDEN_SIZE)


def without_a_table() -> nn.Module:
    model = toy_model()
    model.set_input_embeddings(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
    return model


def with_two_tables() -> nn.Module:
    model = toy_model()
    model.model.embed_tokens_per_layer = nn.Embedding(V, 4)  # as Gemma 3n and some Gemma 4 have it
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_width, "LlamaForCausalLM: its words are 64 wide, the adapters' vectors 32"),
        (without_a_table, r"its input embedding is a Linear, expected nn\.Embedding"),
        (with_two_tables, "look token ids up again, in `embed_tokens_per_layer`"),
    ],
)
def test_attach_to_a_model_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ModelError, match=message):
        attach_toy(make(), "none")


# What the adapters read

D, H = 6, 16
USERS, ITEMS = (
    torch.randn(40, D, generator=torch.Generator().manual_seed(1)) * 3 + 1,
    torch.randn(30, D),
)


def vectors(
    kind: str, users: Tensor = USERS, items: Tensor = ITEMS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    config = AdapterModelConfig(vectors=kind, vectors_seed=seed)
    return input_vectors(config, users, items)


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_substitutes_have_nothing_of_the_graph_and_stay_when_others_are_appended(kind):
    assert vectors("graph") == (USERS, ITEMS)
    users, items = vectors(kind)
    assert (users.shape, items.shape, users.dtype) == (USERS.shape, ITEMS.shape, torch.float32)
    more = vectors(kind, torch.cat([USERS.flip(0) * 2, USERS]), torch.cat([ITEMS - 1, ITEMS]))
    assert torch.equal(more[0][: len(USERS)], users)
    assert torch.equal(more[1][: len(ITEMS)], items)


def test_random_rows_are_standard_normal_distinct_and_of_their_seed():
    many = torch.zeros(4000, D)
    users, items = vectors("random", many, many)
    assert users.mean().item() == pytest.approx(0, abs=0.03)
    assert users.std().item() == pytest.approx(1, abs=0.03)
    assert len(users.unique(dim=0)) == len(users)
    assert not torch.equal(users, items)
    assert not torch.equal(users, vectors("random", many, many, seed=1)[0])
