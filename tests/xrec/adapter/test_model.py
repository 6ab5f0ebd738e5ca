"""Adapters on a frozen model, the vectors that they read, and the mixture of experts by a loop."""

import math
from itertools import product
from statistics import fmean, pstdev
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from tests.errors import raises
from tests.world.models import (
    FAMILIES,
    HIDDEN_SIZE,
    NUM_USERS,
    attach_toy,
    tiny_decoder,
    toy_model,
    toy_vectors,
)
from xrec.adapter.model import embedding_scale, input_vectors
from xrec.adapter.moe import MoEAdapter
from xrec.config import AdapterModelConfig
from xrec.errors import ModelError

V = 64
D, H, K = 5, 11, 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["direct", "projected"])
def test_attach_freezes_the_model_and_a_step_changes_adapters_only(rule, family):
    model = tiny_decoder(family)
    words = model.get_input_embeddings().weight.clone()
    embedding = attach_toy(model, rule)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainable = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trainable == {name for name in before if "_adapter." in name}
    ids = torch.tensor([[V, 5, V + 5, 6]])
    embedding.train()
    model(ids, labels=ids.clamp_max(V - 1)).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    changed = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert changed == trainable
    assert torch.equal(embedding.token_embedding.weight, words)


def test_attach_leaves_a_tied_head_tied_to_the_words():
    model = toy_model(tied=True)
    words = model.get_input_embeddings().weight
    attach_toy(model, "none")
    assert model.lm_head.weight is words
    assert model(torch.tensor([[V, 5]])).logits.shape == (1, 2, V)


def entering_first_layer(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Return the input (B, S, H) of the first layer for `input_ids`."""
    seen = Mock(return_value=None)
    with model.model.layers[0].register_forward_pre_hook(seen):
        model(input_ids)
    return seen.call_args.args[1][0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_vectors_enter_the_first_layer_unchanged_beside_words_of_the_models_scale(family):
    model = tiny_decoder(family)
    words = entering_first_layer(model, torch.arange(V)[None])
    assert embedding_scale(model) == pytest.approx(float(words.square().mean().sqrt()), rel=1e-6)
    embedding, (users, items) = attach_toy(model, "projected"), toy_vectors()
    entered = entering_first_layer(model, torch.tensor([[5, V + 1, 9, V + NUM_USERS]]))
    assert torch.equal(entered[:, ::2], words[:, [5, 9]])
    assert torch.equal(entered[0, 1], embedding.user_adapter(users[1:2])[0])
    assert torch.equal(entered[0, 3], embedding.item_adapter(items[:1])[0])


def test_attach_to_a_model_that_does_not_fit_is_refused():
    with raises(ModelError, "another_width", saw=2 * HIDDEN_SIZE):
        attach_toy(tiny_decoder("llama", hidden_size=2 * HIDDEN_SIZE), "none")
    model = toy_model()
    model.model.embed_tokens_per_layer = nn.Embedding(V, 4)  # like Gemma 3n and some Gemma 4
    with raises(ModelError, "second_embedding_table", saw="embed_tokens_per_layer"):
        attach_toy(model, "none")
    model.set_input_embeddings(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
    with raises(ModelError, "no_embedding_table", saw="Linear"):
        attach_toy(model, "none")


# What the adapters read

USERS, ITEMS = torch.randn(40, D) * 3 + 1, torch.randn(30, D)


def vectors(kind: str, users: Tensor = USERS, items: Tensor = ITEMS) -> tuple[Tensor, Tensor]:
    return input_vectors(AdapterModelConfig(vectors=kind), users, items)


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_substitutes_ignore_the_graph_and_stay_when_others_are_appended(kind):
    assert vectors("graph") == (USERS, ITEMS)
    users, items = vectors(kind)
    assert (users.shape, items.shape, users.dtype) == (USERS.shape, ITEMS.shape, torch.float32)
    more = vectors(kind, torch.cat([USERS.flip(0) * 2, USERS]), torch.cat([ITEMS - 1, ITEMS]))
    assert torch.equal(more[0][: len(USERS)], users)
    assert torch.equal(more[1][: len(ITEMS)], items)


def make_adapter(**settings: object) -> MoEAdapter:
    torch.manual_seed(0)
    adapter = MoEAdapter(D, H, K, **settings)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


def one_by_one(adapter: MoEAdapter, vectors: Tensor, scale: float) -> list[list[float]]:
    """Return the equation of the module's docstring in plain Python numbers, without noise."""
    gate, bias, weight = (each.tolist() for each in (adapter.gate, adapter.bias, adapter.weight))
    table = vectors.tolist()
    columns = list(zip(*table, strict=True))
    mean, std = ([each(column) for column in columns] for each in (fmean, pstdev))
    rows = []
    for x in table:
        z = [(x[d] - mean[d]) / std[d] for d in range(D)]
        experts = [math.exp(sum(z[d] * gate[d][k] for d in range(D))) for k in range(K)]
        row = [0.0] * H
        for k, h in product(range(K), range(H)):
            value = sum((z[d] - bias[k][d]) * weight[k][d][h] for d in range(D))
            row[h] += scale * experts[k] / sum(experts) * value
        rows.append(row)
    return rows


def test_moe_equals_a_loop_over_samples_and_experts():
    adapter = make_adapter().eval()
    table = torch.randn(20, D) * torch.arange(1, D + 1) + 3
    adapter.fit_input(table, 0.25)
    expected = torch.tensor(one_by_one(adapter, table, 0.25))
    torch.testing.assert_close(adapter(table), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.5, "gating_noise": False}])
def test_moe_has_noise_and_dropout_in_training_only(settings):
    adapter, vectors = make_adapter(**settings), torch.randn(4, D)
    quiet = make_adapter(gating_noise=False)
    assert not torch.equal(adapter(vectors), adapter(vectors))
    assert torch.equal(adapter.eval()(vectors), quiet(vectors))
    assert torch.equal(quiet(vectors), quiet(vectors))


@pytest.mark.parametrize("axis_power", [None, 0.5])
def test_moe_treats_a_row_of_zeros_as_the_mean_of_the_others(axis_power):
    torch.manual_seed(0)
    table = torch.randn(50, D) + 3
    adapter = MoEAdapter(D, 7, 3, own_share=0.5, axis_power=axis_power).eval()
    adapter.fit_input(torch.cat([table, torch.zeros(20, D)]), 1.0)
    unknown, mean = adapter(torch.stack([torch.zeros(D), table.mean(dim=0)]))
    torch.testing.assert_close(unknown, mean, rtol=1e-4, atol=1e-5)
    assert adapter.standardized(table).mean(dim=0).abs().max() < 1e-5


def test_moe_scales_a_dimension_in_which_all_are_equal_to_one():
    adapter, table = make_adapter().eval(), torch.randn(8, D)
    table[:, 2], table[:, 4] = 40.0, 0.0
    adapter.fit_input(table, 1.0)
    standardized = (table - adapter.mean) / adapter.std
    assert torch.equal(standardized[:, 2], torch.ones(8))
    assert torch.equal(standardized[:, 4], torch.zeros(8))
    centred = table.index_fill(1, torch.tensor([2]), 0.0)
    assert not torch.allclose(adapter(table), adapter(centred))
    equal, adapter = torch.ones(8, D), make_adapter(axis_power=2.0)
    adapter.fit_input(equal, 1.0)
    assert torch.equal(adapter.standardized(equal), equal)


def axes_table() -> Tensor:
    """Return 500 rows with three strong and two weak principal axes, which are no coordinates."""
    generator = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    return (
        torch.randn(500, D, generator=generator) * torch.tensor([4.0, 3.0, 2.0, 0.5, 0.25])
    ) @ turn + 7


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_moe_axis_power_gives_each_principal_axis_its_spread_to_that_power(power):
    table = axes_table()
    adapter = MoEAdapter(D, H, K, axis_power=power)
    adapter.fit_input(table, 1.0)
    z = adapter.standardized(table).double()
    spread = torch.linalg.svdvals(table.double() - table.double().mean(0)) / len(table) ** 0.5
    expected = (spread**power).square()
    torch.testing.assert_close(
        z.T @ z / len(z), torch.diag(expected / expected.mean()).flip(0, 1), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("axis_power", [None, 2.0])
@pytest.mark.parametrize("own_share", [1.0, 0.25, 0.01])
def test_moe_first_output_differs_between_rows_by_the_own_share(own_share, axis_power):
    torch.manual_seed(0)
    adapter = MoEAdapter(64, 512, 1, own_share=own_share, axis_power=axis_power).eval()
    table = torch.randn(2000, 64) * 3 + 5
    adapter.fit_input(table, 0.03)
    output = adapter(table)
    assert output.square().mean().sqrt().item() == pytest.approx(0.03, rel=0.15)
    assert (output.var(0).mean() / output.square().mean()).item() == pytest.approx(
        own_share, rel=0.25
    )
