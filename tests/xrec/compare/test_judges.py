"""Judges in a comparison: through an endpoint, beside published scores of the same texts."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.xrec.compare.comparisons import Work, figures, run
from tests.xrec.compare.conftest import MakeConfig
from tests.xrec.text.stub_endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from xrec.config.compare import CompareConfig
from xrec.data.dataset import read_dataset
from xrec.data.held_out import held_out_pairs
from xrec.errors import ConfigError
from xrec.storage import location_of

pytestmark = pytest.mark.usefixtures("without_plots")


def _behave(asked: Asked) -> Answer:
    """Ann gives the number of words, bob ten times as much; bob has no number for short texts."""
    question = asked.body["messages"][1]["content"]
    num_words = len(json.loads(question)["prediction"].split())
    if asked.body["model"] == "ann":
        return Answer(text=json.dumps({"score": num_words}))
    return Answer(text=json.dumps({"score": 10 * num_words}) if num_words > 1 else "fine!")


def _judges(stub: StubEndpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "model": {
                "kind": "endpoint",
                "base_url": stub.url,
                "model": name,
                "api_key_variable": None,
                "max_retries": 3,
            },
        }
        for name in ("ann", "bob")
    ]


def _published(config: CompareConfig, folder: Path) -> dict[str, Any]:
    """Texts of one to five words, and a published judge who gives 100 less ten a word."""
    pairs = held_out_pairs(read_dataset(location_of(config, "dataset")), "test")
    rows = [
        {
            "user_id": pair.user_id,
            "item_id": pair.item_id,
            "explanation": " ".join(["word"] * (1 + place % 5)),
            "scores": {"gemma": [95 - 10 * (1 + place % 5), 105 - 10 * (1 + place % 5)]},
        }
        for place, pair in enumerate(pairs)
    ]
    path = folder / "public.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"public": {"uri": str(path), "judge_scores": f"{path}#scores"}}


def test_compare_with_judges_tells_their_scores_agreement_and_failures(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with stub_endpoint(_behave) as stub:
        config = make_config(
            contestants=["profile", "public"],
            texts=_published(make_config(), tmp_path),
            metrics={"encoder": None, "judges": _judges(stub)},
        )
        manifest = run(config)
        num_asked = len(stub.asked)
        assert run(config, Work()) == manifest
        assert len(stub.asked) == num_asked
    assert {"judges.md", "judges.parquet"} <= set(manifest.files)
    found = figures(config)
    assert 1 < found["public", "gptscore_ann"]["value"] < 5
    rows = pq.read_table(tmp_path / "comparison" / "judges.parquet").to_pylist()
    of_public = {(row["judge"], row["other"]): row for row in rows if row["entry"] == "public"}
    assert of_public["ann", "bob"]["spearman"] == pytest.approx(1)
    assert of_public["ann", "gemma"]["spearman"] == pytest.approx(-1)
    assert ("ann", "gemma") not in {
        (row["judge"], row["other"]) for row in rows if row["entry"] == "profile"
    }
    num_pairs = found["public", "coverage"]["num_pairs"]
    num_short = (num_pairs + 4) // 5
    page = (tmp_path / "comparison" / "judges.md").read_text()
    assert "| public | ann | gemma | -1.00 (-1.00 to -1.00)" in page
    assert f"| public | bob | failed:invalid_json | {num_short} |" in page
    assert found["public", "gptscore_bob_failed"]["value"] == pytest.approx(num_short / num_pairs)
    assert found["public", "gptscore_bob"]["num_pairs"] == num_pairs - num_short


def test_published_scores_without_judges_of_ones_own_are_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"texts.public.judge_scores are compared with our"):
        make_config(contestants=["public"], texts=_published(make_config(), tmp_path))
