"""The training benchmark: one loss for all contestants, FLOP as torch counts, ratios of a round."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flop import WorkMeter
from benchmarks.train import summary
from benchmarks.train_contestants import CONTESTANTS, whole_row_loss
from benchmarks.train_setup import Contest, Setup, prepare
from jobs.prepare import run as prepare_dataset
from tests.toy import attach_toy, save_toy_model, toy_model
from xrec.config.data import PrepareConfig
from xrec.llm.examples import Example
from xrec.llm.prefix import PrefixCache
from xrec.train.adapter_model import ExplanationLoss

TOWN = {
    "kind": "sample",
    "num_users": 40,
    "num_items": 30,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    """16 pairs of a town of 40 users, and a toy model."""
    folder = tmp_path_factory.mktemp("town")
    prepare_dataset(PrepareConfig.model_validate({"workspace": str(folder), "source": TOWN}))
    llm = save_toy_model(folder / "llm")
    return Contest(
        str(folder / "dataset"),
        str(llm),
        "end",
        "projected",
        num_pairs=16,
        batch_size=4,
        dtype="float32",
        cores=1,
        seed=0,
    )


def take_gradients(setup: Setup) -> list[torch.Tensor]:
    gradients = [
        parameter.grad.clone() for parameter in setup.trainable if parameter.grad is not None
    ]
    setup.model.zero_grad()
    return gradients


def test_plain_rows_and_ours_have_the_same_loss_and_gradients(contest: Contest) -> None:
    setup = prepare(contest)
    setup.model.eval()  # no noise on the gates
    assert len(setup.examples) == 16
    total = sum(
        whole_row_loss(setup, example) * len(example.label_ids) for example in setup.examples[:4]
    )
    total.backward()
    expected = take_gradients(setup)
    ours = ExplanationLoss(
        setup.model, PrefixCache(setup.model, setup.examples, budget_bytes=0)
    ).eval()(setup.examples[:4])
    ours.backward()
    assert ours.item() == pytest.approx(total.item(), rel=1e-5)
    for gradient, other in zip(take_gradients(setup), expected, strict=True):
        torch.testing.assert_close(
            gradient, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()) + 1e-9
        )


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_contestant_trains_all_epochs_and_its_loss_falls(contest: Contest, name: str) -> None:
    setup = prepare(contest)
    before = [parameter.clone() for parameter in setup.model.parameters()]
    epochs = list(CONTESTANTS[name](setup, 8))
    assert len(epochs) == 8
    assert epochs[-1].loss < epochs[0].loss - 0.001
    assert all(epoch.seconds > 0 for epoch in epochs)
    assert (epochs[0].padding_share > 0) == (name != "plain")
    for old, new in zip(before, setup.model.parameters(), strict=True):
        assert torch.equal(old, new) or new.requires_grad  # the language model stays as it is


@pytest.mark.parametrize("gradient", [True, False])
def test_work_meter_counts_what_torch_counts(gradient: bool) -> None:
    model = toy_model(num_key_value_heads=4)
    model.set_attn_implementation("eager")  # torch's counter knows no attention kernel of the CPU
    attach_toy(model, "none")
    examples = [Example([1, 2, 3, 4, 64, 70, 5], [6, 7, 8]), Example([1, 2, 9, 65, 71, 5], [6, 7])]
    cache, meter = PrefixCache(model, examples, budget_bytes=0), WorkMeter(model)
    with torch.set_grad_enabled(gradient), FlopCounterMode(display=False) as counter:
        nll = ExplanationLoss(model, cache)(examples)
        if gradient:
            nll.backward()
    assert meter.flop == counter.get_total_flops() - adapter_flop(model, examples, gradient) > 0


def adapter_flop(model: torch.nn.Module, examples: list[Example], gradient: bool) -> int:
    embedding = model.get_input_embeddings()
    tokens = [token for example in examples for token in example.prompt_ids if token >= 64]
    with torch.set_grad_enabled(gradient), FlopCounterMode(display=False) as counter:
        adapted = embedding.adapt(torch.tensor(tokens))
        if gradient:
            adapted.sum().backward()
    return counter.get_total_flops()


def test_summary_takes_ratios_within_a_round() -> None:
    def row(number: int, name: str, first: float, later: float) -> dict[str, object]:
        return {
            "round": number,
            "contestant": name,
            "first epoch: pairs a second": first,
            "later epochs: pairs a second": later,
            "loss": [1.0],
        }

    rows = [
        row(1, "plain", 1.0, 1.0),
        row(1, "ours", 4.0, 8.0),
        row(2, "plain", 0.5, 0.5),
        row(2, "ours", 2.0, 5.0),
    ]  # round 2: a busy machine
    plain, ours = summary(rows)
    assert (plain["first / plain"], plain["later / plain"], plain["first / trainer"]) == (
        1.0,
        1.0,
        None,
    )
    assert (ours["first / plain"], ours["later / plain"]) == (4.0, 9.0)
    assert ours["later epochs: pairs a second"] == 6.5


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_run_writes_a_row_a_contestant_and_a_table(
    contest: Contest, tmp_path: Path, cores: int
) -> None:
    from typer.testing import CliRunner

    from benchmarks.train import app

    sizes = [
        "--num-pairs",
        "8",
        "--batch-size",
        "4",
        "--rounds",
        "1",
        "--num-epochs",
        "2",
        "--dtype",
        "float32",
        "--cores",
        str(cores),
    ]
    names = ["--contestant", "plain", "--contestant", "ours", "--place", "end"]
    done = CliRunner().invoke(
        app,
        ["run", contest.dataset, "--llm", contest.llm, *sizes, *names, "--output", str(tmp_path)],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    rows = [
        json.loads(line)["row"] for line in (tmp_path / "results.jsonl").read_text().splitlines()
    ]
    assert [(row["contestant"], len(row["loss"])) for row in rows] == [("plain", 1), ("ours", 2)]
    assert all(0 < row["share of the matrix rate"] < 1 and row["peak GiB"] > 0 for row in rows)
    assert rows[1]["loss"][0] == pytest.approx(
        rows[0]["loss"][0], rel=0.1
    )  # the workers' parts are a mean over all their pairs
    assert "| ours |" in (tmp_path / "end.md").read_text()
