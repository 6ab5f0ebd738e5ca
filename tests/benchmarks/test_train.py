"""The training benchmark: one loss for all contestants, ratios of a round."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.train import app, summary
from benchmarks.train_contestants import CONTESTANTS, whole_row_loss
from benchmarks.train_setup import Contest, Setup, prepare
from xrec.llm.prefix import PrefixCache
from xrec.train.adapter_model import ExplanationLoss


@pytest.fixture
def contest(workspace):
    """16 pairs of the town."""
    llm = str(workspace / "llm")
    return Contest(str(workspace / "dataset"), llm, "projected", 16, 4, "float32", 1, 0)


def take_gradients(setup: Setup) -> list[torch.Tensor]:
    gradients = [each.grad.clone() for each in setup.trainable if each.grad is not None]
    setup.model.zero_grad()
    return gradients


def test_plain_rows_and_ours_have_the_same_loss_and_gradients(contest):
    setup = prepare(contest)
    setup.model.eval()  # no noise on the gates
    examples = setup.examples[:4]
    total = sum(whole_row_loss(setup, each) * len(each.label_ids) for each in examples)
    total.backward()
    expected = take_gradients(setup)
    prefixes = PrefixCache(setup.model, setup.examples, budget_bytes=0)
    ours = ExplanationLoss(setup.model, prefixes).eval()(examples)
    ours.backward()
    assert ours.item() == pytest.approx(total.item(), rel=1e-5)
    for gradient, other in zip(take_gradients(setup), expected, strict=True):
        tolerance = 1e-4 * float(other.abs().max()) + 1e-9
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_contestant_trains_all_epochs_and_its_loss_falls(contest, name):
    setup = prepare(contest)
    before = [parameter.clone() for parameter in setup.model.parameters()]
    epochs = list(CONTESTANTS[name](setup, 8))
    assert len(epochs) == 8
    assert epochs[-1].loss < epochs[0].loss - 0.001
    assert all(epoch.seconds > 0 for epoch in epochs)
    for old, new in zip(before, setup.model.parameters(), strict=True):
        assert torch.equal(old, new) or new.requires_grad  # the language model stays as it is


def test_summary_takes_ratios_within_a_round():
    def row(number: int, name: str, first: float, later: float) -> dict[str, object]:
        rates = {"first epoch: pairs a second": first, "later epochs: pairs a second": later}
        return {"round": number, "contestant": name, **rates, "loss": [1.0]}

    plain, ours = summary(
        [
            *(row(1, "plain", 1.0, 1.0), row(1, "ours", 4.0, 8.0)),
            *(row(2, "plain", 0.5, 0.5), row(2, "ours", 2.0, 5.0)),  # a busy machine
        ]
    )
    assert (plain["first / plain"], plain["later / plain"]) == (1.0, 1.0)
    assert plain["first / trainer"] is None
    assert (ours["first / plain"], ours["later / plain"]) == (4.0, 9.0)
    assert ours["later epochs: pairs a second"] == 6.5


@pytest.mark.slow
def test_run_writes_a_row_a_contestant_and_a_table(contest, tmp_path):
    options = ["--num-pairs", "8", "--batch-size", "4", "--rounds", "1", "--num-epochs", "2"]
    options += ["--dtype", "float32"]
    options += ["--contestant", "plain", "--contestant", "ours", "--cores", "2"]
    arguments = ["run", contest.dataset, "--llm", contest.llm, *options, "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line)["row"] for line in lines]
    assert [(row["contestant"], len(row["loss"])) for row in rows] == [("plain", 1), ("ours", 2)]
    # The workers' parts are a mean over all their pairs.
    assert rows[1]["loss"][0] == pytest.approx(rows[0]["loss"][0], rel=0.1)
    assert "| ours |" in (tmp_path / "table.md").read_text()
