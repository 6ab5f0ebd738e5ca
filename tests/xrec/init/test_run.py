"""The two commands that the README promises, over a handful of reviews: `init`, then `run`."""

import csv
from pathlib import Path

import pytest

from tests.world.here import map_here, pool_here
from tests.world.models import save_toy_model
from tests.world.program import said
from xrec.backfill import read_explanations

ASPECTS = ("tone", "switch", "display")
SETTINGS = (
    *("workers.num_processes=1", "llm.dtype=float32", "decoding.max_new_tokens=4"),
    *("annotate.vocabulary.min_reviews=2", "annotate.max_failed_share=1"),
    "annotate.split={by: hash, test: 0.2, validation: 0.2}",
    *("pretrain-graph.training.num_epochs=1", "train-adapter.training.max_steps=1"),
    *("recommend.k=1", "backfill.max_failed_share=1", "backfill.gate=null"),
)


def _write_reviews(path: Path) -> None:
    """12 users' reviews of six pedals, in columns of other names."""
    header = ("Customer", "Product", "Stars", "Opinion")
    texts = [f"This pedal has a warm {aspect}. I love the {aspect}." for aspect in ASPECTS]
    rows = [
        (f"u{user}", f"i{(user + number) % 6}", 5, texts[(user * number) % 3])
        for user in range(12)
        for number in range(5)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "actors_here")
def test_init_and_run_turn_a_few_reviews_into_explanations(tmp_path, monkeypatch):
    """Both trainings run on Ray, everything else in this process; no file is edited."""
    monkeypatch.setattr("xrec.processes.RayPool", pool_here)
    monkeypatch.setattr("xrec.processes.map_in_processes", map_here)
    _write_reviews(tmp_path / "feedback.csv")
    model = save_toy_model(tmp_path / "llm")
    columns = "user_id=Customer,item_id=Product,rating=Stars,review=Opinion"
    out = said(
        *("init", tmp_path / "shop", "--from", tmp_path / "feedback.csv", "--columns", columns)
    )
    project = tmp_path / "shop" / "xrec.yaml"
    assert f"next: xrec run {project}" in out
    out = said("run", project, f"llm.model={model}", *SETTINGS, "--until", "backfill")
    explained = read_explanations(str(tmp_path / "shop" / "workspace" / "explanations"))
    assert explained.num_rows > 10
    lines = (
        f"{row['user_id']}, {row['item_id']}: {row['explanation']}" for row in explained.to_pylist()
    )
    assert sum(line in out for line in lines) == 10
    assert any(f"mention the {aspect}" in out for aspect in ASPECTS)
