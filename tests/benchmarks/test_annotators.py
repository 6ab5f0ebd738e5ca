"""The benchmark of language models that annotate, over stub endpoints."""

import json
from typing import Any

import yaml

from benchmarks.annotators import app
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.shop import review, write_json_lines

REVIEWS = ["Soft and wide.", "", "Red.", "It is heavy.", "Soft."]


def _aspect(quote: str) -> dict[str, str]:
    return {"quote": quote, "aspect": quote, "opinion": "", "sentiment": "positive"}


def _honest(asked: Asked) -> Answer:
    """Quotes the first word of the review, and one that is in none."""
    word = json.loads(asked.words)["review"].split()[0].strip(".")
    aspects = [_aspect(word), _aspect("lasts for years")]
    return Answer(text=json.dumps({"aspects": aspects, "explanation": "You would enjoy it."}))


def _inventive(asked: Asked) -> Answer:
    """Quotes what no review says, and once writes no JSON at all."""
    if "Red" in json.dumps(asked.body["messages"]):
        return Answer(text="I would rather not.")
    reply = {"aspects": [_aspect("lasts for years")], "explanation": "You would enjoy it."}
    return Answer(text=json.dumps(reply))


def _model(url: str, name: str) -> dict[str, Any]:
    return {"kind": "endpoint", "base_url": url, "model": name, "api_key_variable": None}


def test_command_tells_valid_replies_and_quotes_of_each_model(run, tmp_path):
    rows = [review(f"u{number}", "i", text) for number, text in enumerate(REVIEWS)]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    models = tmp_path / "models.yaml"
    with stub_endpoint(_honest) as honest, stub_endpoint(_inventive) as inventive:
        wanted = [_model(honest.url, "honest"), _model(inventive.url, "inventive")]
        models.write_text(yaml.safe_dump(wanted))
        first, second = run(app, models, path, num_reviews=4)["Annotators"]
    assert first.pop("seconds") >= 0
    assert first == {
        "model": "honest",
        "reviews": 4,
        "valid replies": "100.0%",
        "quotes found": "50.0%",
        "aspects a review": 1.0,
        "requests": 4,
        "tokens": 4 * 18,
    }
    assert (second["valid replies"], second["quotes found"]) == ("0.0%", "0.0%")
    assert second["requests"] == 8
