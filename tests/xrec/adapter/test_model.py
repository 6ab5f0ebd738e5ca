"""Adapters on a model: what is frozen, what is trained, and that the signal reaches the text."""

import torch

from tests.toy import attach_toy, toy_adapters, toy_model
from xrec.adapter.model import build_adapters, embedding_scale
from xrec.config import AdapterModelConfig

V = 64


def test_attach_freezes_the_model_and_a_step_changes_adapters_only() -> None:
    model = toy_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedding = attach_toy(model, "projected")
    adapters_before = [parameter.clone() for parameter in embedding.user_adapter.parameters()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.tensor([[V, 5, V + 5, 6]])
    embedding.train()
    model(ids, labels=ids.clamp_max(V - 1)).loss.backward()
    torch.optim.AdamW(trainable, lr=0.1).step()

    after = model.state_dict()
    renamed = {name.replace("embed_tokens.weight", "embed_tokens.token_embedding.weight"): tensor for name, tensor in before.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in renamed.items())
    assert all(not torch.equal(new, old) for new, old in zip(embedding.user_adapter.parameters(), adapters_before, strict=True))


def test_attach_makes_the_text_depend_on_user_and_item() -> None:
    model = toy_model()
    attach_toy(model, "projected")
    logits = [model(torch.tensor([[user, 5, item, 6]])).logits[0, -1] for user, item in ((V, V + 5), (V + 1, V + 5), (V, V + 6), (V, V + 5))]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert torch.equal(logits[0], logits[3])


def test_attach_leaves_a_tied_head_tied_to_the_words() -> None:
    model = toy_model(tied=True)
    words = model.get_input_embeddings().weight
    attach_toy(model, "none")
    assert model.lm_head.weight is words
    assert model(torch.tensor([[V, 5]])).logits.shape == (1, 2, V)


def test_build_adapters_follows_the_seed_and_gives_two_different_sides() -> None:
    config = AdapterModelConfig(num_experts=2)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_adapters(config, embedding_dim=3, hidden_size=4).state_dict())
    assert torch.equal(states[0]["user.weight"], states[1]["user.weight"])
    assert not torch.equal(states[0]["user.weight"], states[2]["user.weight"])
    assert not torch.equal(states[0]["user.weight"], states[0]["item.weight"])


def test_adapters_state_is_a_float32_copy_by_side() -> None:
    adapters = toy_adapters("direct")
    adapters.user.bfloat16()
    state = adapters.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    fresh = toy_adapters("direct", seed=1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.item.weight, adapters.item.weight)


def test_embedding_scale_is_the_root_mean_square_of_the_words() -> None:
    model = toy_model()
    rows = model.get_input_embeddings().weight.tolist()
    values = [value for row in rows for value in row]
    assert abs(embedding_scale(model) - (sum(value**2 for value in values) / len(values)) ** 0.5) < 1e-6
