"""docs/tutorials: their commands, YAML and Python are run in order, here, on small files.

Commands of kubectl and the like are only checked (test_documented_commands). Of `serve`, it is
checked that the endpoint would start.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from tests.test_documented_commands import blocks, commands
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.here import map_here
from tests.world.program import said
from tests.world.shop import review, write_json_lines, write_shop
from tests.xrec.jobs.conftest import train_in_process, work_here
from xrec.backfill import read_explanations
from xrec.config import ServeConfig, load_config
from xrec.jobs.serve import checked

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
TRAINING = (
    *("workers.num_processes=1", "pretrain-graph.training.num_epochs=1"),
    *("pretrain-graph.model.embedding_dim=8", "pretrain-graph.training.steps_per_epoch=2"),
)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """Work in the test's own folder and process."""
    monkeypatch.chdir(tmp_path)
    train_in_process(monkeypatch)
    work_here(monkeypatch)
    monkeypatch.setattr("xrec.lab.compare.scores.map_in_processes", map_here)


def follow(page: str, more: Mapping[str, Sequence[str]], write_yaml: Any = None) -> dict[str, str]:
    """Do what a tutorial says, in its order, and return what each command printed.

    more: overrides for commands, by their first words.
    write_yaml: what is done with a block of YAML.
    """
    printed, names = dict[str, str](), dict[str, Any]()
    for kind, block in blocks((TUTORIALS / page).read_text()):
        if kind == "python":
            exec(block, names)
        elif kind == "yaml":
            write_yaml(block)
        else:
            for (_, *words), _ in commands(block):
                given = [
                    each for key in more if " ".join(words).startswith(key) for each in more[key]
                ]
                if words[0] == "serve":
                    checked(load_config(ServeConfig, Path(words[1])))
                else:
                    printed[" ".join(words)] = said(*words, *given)
    return printed


def test_purchases_become_a_page_with_reasons_and_a_takedown_removes_one(tmp_path):
    """Everybody bought sku-15 and two neighbors of it on the shelf."""
    exports = tmp_path / "exports"
    exports.mkdir()
    goods = ["item_id,title", *(f"sku-{number},Kettle <{number}>" for number in range(12, 24))]
    (exports / "goods.csv").write_text("\n".join(goods))
    pairs = [f"c{user:04},sku-{12 + (user + 3 * n) % 12}" for user in range(40) for n in range(4)]
    (exports / "purchases.csv").write_text("\n".join(["user_id,item_id", *pairs]))
    small = ("recommend.k=3", *TRAINING)
    follow("purchases.md", {"run": small, "refresh": small})
    page = (tmp_path / "page.html").read_text()
    with next((tmp_path / "reasons").glob("*.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["user_id"] == "c0000"]
    assert rows
    assert page.count("<h2>Kettle &lt;") == len(rows)
    rows = read_explanations("shop/workspace/explanations").to_pylist()
    assert len(rows) > 40
    assert "sku-15" not in {row["item_id"] for row in rows}


def _replies(asked: Asked) -> Answer:
    """Reply as an annotator to JSON, and as a writer to a prompt."""
    if not asked.words.startswith("{"):
        return Answer("You would enjoy [title] for its warm tone.")
    aspects = [{"quote": "warm tone", "aspect": "tone", "opinion": "warm", "sentiment": "positive"}]
    about = {"title": "A pedal", "profile": "It has a warm tone."}
    text = {"aspects": aspects, "explanation": "You would enjoy the warm tone."}
    return Answer(json.dumps({**about, **text}))


def test_reviews_and_an_endpoint_become_checked_sentences(tmp_path):
    rows = [
        review(
            f"u{user}", f"i{item}", "A warm tone.", time=10 * user + n, item_title=f"Pedal {item}"
        )
        for user in range(20)
        for n, item in enumerate((user % 8, (user + 1) % 8, (user + 3) % 8, (user + 6) % 8))
    ]
    write_json_lines(tmp_path / "reviews.jsonl", rows)
    with stub_endpoint(_replies) as stub:
        small = ("recommend.k=2", "prepare.max_rejected_share=0.5")

        def write(block: str) -> None:
            (tmp_path / "shop.yaml").write_text(block.replace("http://127.0.0.1:8001/v1", stub.url))

        printed = follow("reviews.md", {"run": small}, write)
        asked = [(each.words, each.body["model"]) for each in stub.asked]
    assert len(asked) == len(set(asked))  # no reply is paid for twice
    assert "prompts" in printed["annotate shop.yaml --dry-run"]
    rows = read_explanations("workspace/shop/explanations").to_pylist()
    assert len(rows) == 20 * 2
    for row in rows:
        title = f"Pedal {row['item_id'][1:]}"
        assert row["explanation"].startswith(f"You would enjoy {title} for its warm tone.")


def test_texts_of_another_program_are_compared_on_the_same_pairs(tmp_path):
    """The tables of a shop stand for the release. What is trained in hours is left out."""
    write_shop(tmp_path / "XRec" / "data" / "yelp")
    project = tmp_path / "paper" / "xrec.yaml"

    def add(block: str) -> None:
        values = yaml.safe_load(block)
        assert values["compare"]["entries"][-1] == "mine"
        project.write_text(f"{project.read_text()}\n{block}\n")

    untrained = ("encoder=null", "entries=[nearest,profile,mine]", "actors.device=cpu")
    follow("compare.md", {"run": TRAINING, "lab": untrained}, add)
    found = pq.read_table("paper/workspace/comparison/table.parquet").to_pylist()
    coverage = {row["entry"]: row for row in found if row["metric"] == "coverage"}
    assert coverage["mine"]["value"] == coverage["profile"]["value"] == 1
    assert coverage["mine"]["num_pairs"] == coverage["nearest"]["num_pairs"] > 10
    assert (tmp_path / "paper/workspace/comparison/table.tex").exists()
    pd.read_csv("anna.csv").assign(true=2, personal=1, fluent=5).to_csv("anna.csv", index=False)
    ratings = said("lab", "ratings", project, *untrained, "--sheet", "anna.csv")
    assert ratings.splitlines()[1].startswith("nearest  10     2.00 (2.00 to 2.00)  1.00")
