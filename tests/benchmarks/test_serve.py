"""The endpoint's benchmark: both servers write the same texts."""

from typing import Any

import pytest
import requests

from benchmarks.serve import _server
from tests.world.workspace import make_town
from tests.xrec.serve.local_endpoint import DECODING, ITEMS, USERS


@pytest.mark.slow
def test_both_servers_write_the_same_texts(tmp_path):
    town = make_town(tmp_path / "town")
    config: dict[str, Any] = {
        "workspace": str(town),
        "llm": {"model": str(town / "llm")},
        "decoding": DECODING,
        "models": {"device": "cpu"},
    }
    pairs = [{"user_id": user, "item_id": item} for user in USERS[:4] for item in ITEMS[:2]]
    texts = []
    for modules in (("xrec.cli", "serve"), ("benchmarks.serve_plain",)):
        with _server(modules, config) as server:
            answers = [
                requests.post(
                    f"{server.url}/v1/explanations", json={"pairs": [pair]}, timeout=120
                ).json()["explanations"][0]
                for pair in pairs
            ]
            texts.append([answer["explanation"] for answer in answers])
            assert len(server.costs()) > 1
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 4
