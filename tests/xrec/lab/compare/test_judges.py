"""Judges in a comparison: through an endpoint, with how far they agree."""

import json
from typing import Any

import pytest

from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.world.shop import write_json_lines
from tests.xrec.lab.compare.comparisons import figures, run
from tests.xrec.lab.compare.test_comparison import pairs_of


def _behave(asked: Asked) -> Answer:
    """Ann gives the number of words, bob 100 less ten a word; bob has no number for short texts."""
    question = asked.body["messages"][1]["content"]
    num_words = len(json.loads(question)["prediction"].split())
    if asked.body["model"] == "ann":
        return Answer(text=json.dumps({"score": num_words}))
    return Answer(text=json.dumps({"score": 100 - 10 * num_words}) if num_words > 1 else "fine!")


def _judges(stub: StubEndpoint) -> list[dict[str, Any]]:
    model = {"kind": "endpoint", "base_url": stub.url, "api_key_variable": None, "max_retries": 3}
    return [{"name": name, "model": {**model, "model": name}} for name in ("ann", "bob")]


def test_compare_with_judges_tells_scores_agreement_and_failures(make_config, tmp_path, caplog):
    pairs = pairs_of(make_config())
    rows = [
        {
            "user_id": pair.user_id,
            "item_id": pair.item_id,
            "explanation": " ".join(["word"] * (1 + place % 5)),
        }
        for place, pair in enumerate(pairs)
    ]
    path = write_json_lines(tmp_path / "public.jsonl", rows)
    with stub_endpoint(_behave) as stub, caplog.at_level("INFO", logger="xrec"):
        config = make_config(
            entries=["public"],
            texts={"public": {"uri": str(path)}},
            metrics={"encoder": None, "judges": _judges(stub)},
        )
        manifest = run(config)
        num_asked = len(stub.asked)
        assert run(config).files == manifest.files
        assert len(stub.asked) == num_asked
    found, num_short = figures(config), (len(pairs) + 4) // 5
    assert 1 < found["public", "gptscore_ann"]["value"] < 5
    assert found["public", "gptscore_bob_failed"]["value"] == pytest.approx(num_short / len(pairs))
    assert found["public", "gptscore_bob"]["num_pairs"] == len(pairs) - num_short
    page = (tmp_path / "comparison" / "table.md").read_text()
    assert "Judges ann and bob rank the texts of `public` alike by -1.00," in page
    assert f"failed: {num_short} invalid_json" in caplog.text
