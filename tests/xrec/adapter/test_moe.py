"""The mixture of experts equals a loop over samples and experts; its constants; its noise."""

import math

import pytest
import torch
from torch import Tensor

from xrec.adapter.moe import MoEAdapter

D, H, K = 5, 11, 3


def make_adapter(**settings: object) -> MoEAdapter:
    torch.manual_seed(0)
    adapter = MoEAdapter(D, H, K, **settings)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


def one_by_one(
    adapter: MoEAdapter, vectors: Tensor, mean: list[float], std: list[float], scale: float
) -> list[list[float]]:
    """The equation of the module's docstring in plain Python numbers, without noise."""
    rows = []
    for x in vectors.tolist():
        z = [(x[d] - mean[d]) / std[d] for d in range(D)]
        logits = [sum(z[d] * adapter.gate[d, k].item() for d in range(D)) for k in range(K)]
        total = sum(math.exp(logit) for logit in logits)
        row = [0.0] * H
        for k in range(K):
            gate = math.exp(logits[k]) / total
            for h in range(H):
                row[h] += (
                    scale
                    * gate
                    * sum(
                        (z[d] - adapter.bias[k, d].item()) * adapter.weight[k, d, h].item()
                        for d in range(D)
                    )
                )
        rows.append(row)
    return rows


def test_moe_equals_a_loop_over_samples_and_experts():
    adapter = make_adapter().eval()
    table = (
        torch.randn(20, D, generator=torch.Generator().manual_seed(1)) * torch.arange(1, D + 1) + 3
    )
    adapter.fit_input(table, 0.25)
    columns = [[row[d] for row in table.tolist()] for d in range(D)]
    mean = [sum(column) / 20 for column in columns]
    std = [
        math.sqrt(sum((x - m) ** 2 for x in column) / 20)
        for column, m in zip(columns, mean, strict=True)
    ]
    expected = torch.tensor(one_by_one(adapter, table[:4], mean, std, 0.25))
    torch.testing.assert_close(adapter(table[:4]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.5, "gating_noise": False}])
def test_moe_noise_and_dropout_are_there_in_training_only(settings):
    adapter, vectors = make_adapter(**settings), torch.randn(4, D)
    quiet = make_adapter(gating_noise=False)
    assert not torch.equal(adapter(vectors), adapter(vectors))
    assert torch.equal(adapter.eval()(vectors), quiet(vectors))
    assert torch.equal(quiet(vectors), quiet(vectors))


def test_moe_noise_trains_the_noise_weights():
    adapter = make_adapter()
    adapter(torch.randn(4, D)).square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in adapter.parameters()
    )


@pytest.mark.parametrize("axis_power", [None, 0.5])
def test_moe_row_of_zeros_is_as_the_mean_of_the_others(axis_power):
    torch.manual_seed(0)
    table = torch.randn(50, D) + 3
    adapter = MoEAdapter(D, 7, 3, own_share=0.5, axis_power=axis_power).eval()
    adapter.fit_input(torch.cat([table, torch.zeros(20, D)]), 1.0)
    unknown, mean = adapter(torch.stack([torch.zeros(D), table.mean(dim=0)]))
    torch.testing.assert_close(unknown, mean, rtol=1e-4, atol=1e-5)
    assert adapter.standardized(table).mean(dim=0).abs().max() < 1e-5


def test_moe_dimension_in_which_all_are_equal_is_scaled_to_one_and_takes_part():
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
    """500 rows with three strong and two weak principal axes, turned away from the coordinates."""
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


def test_moe_axes_are_the_same_whatever_the_order_of_the_rows():
    table = axes_table()
    first, second = MoEAdapter(D, H, K, axis_power=2.0), MoEAdapter(D, H, K, axis_power=2.0)
    first.fit_input(table, 1.0)
    second.fit_input(table.flip(0), 1.0)
    assert first.axes is not None
    torch.testing.assert_close(first.axes, second.axes, atol=1e-4, rtol=1e-4)


def test_moe_axes_are_in_the_state_where_they_are_used_only():
    assert "axes" not in make_adapter().state_dict()
    fitted, fresh = make_adapter(axis_power=2.0).eval(), make_adapter(axis_power=2.0).eval()
    fitted.fit_input(axes_table(), 0.5)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(axes_table()), fitted(axes_table()))


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
