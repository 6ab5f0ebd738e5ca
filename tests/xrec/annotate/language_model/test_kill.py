"""The command itself, killed at random and started again: no prompt is asked twice without need."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.xrec.annotate.review_files import review, write_json_lines
from tests.xrec.text.stub_endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from xrec.annotate.read import read_annotations
from xrec.config.shared import StorageConfig

NUM_USERS, REVIEWS_PER_USER, NUM_ITEMS, CONCURRENCY = 30, 6, 12, 4
NUM_PROMPTS = NUM_ITEMS + NUM_USERS + NUM_USERS * REVIEWS_PER_USER
NUM_KILLS = 3


def _says(asked: Asked) -> Answer:
    reply = {
        "title": "A strap",
        "profile": "It is soft.",
        "explanation": "You would enjoy it.",
        "aspects": [{"aspect": "strap", "opinion": "soft", "sentiment": "positive"}],
    }
    return Answer(text=json.dumps(reply), delay_seconds=0.15)


def _project(stub: StubEndpoint, folder: Path) -> Path:
    rows = [
        review(
            f"u{user}",
            f"i{(user + number) % NUM_ITEMS}",
            f"Review {number} of user {user}: soft.",
            time=number,
        )
        for user in range(NUM_USERS)
        for number in range(REVIEWS_PER_USER)
    ]
    model = {
        "kind": "endpoint",
        "base_url": stub.url,
        "model": "stub",
        "api_key_variable": "STUB_KEY",
        "concurrency": CONCURRENCY,
    }
    values: dict[str, Any] = {
        "workspace": str(folder / "ws"),
        "annotate": {
            "source": {
                "kind": "reviews",
                "uri": str(write_json_lines(folder / "reviews.jsonl", rows)),
            },
            "annotator": {"kind": "language_model", "model": model, "num_asked_twice": 0},
            "rows_per_chunk": 16,
            "actors": {"num_actors": 2},
            "ray": {"num_cpus": 2},
        },
    }
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def _started(path: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "STUB_KEY": "sk-stub", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "xrec.cli", "annotate", str(path), "alongside=true"]
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[4])


def _wait_for(stub: StubEndpoint, num_asked: int, process: "subprocess.Popen[bytes]") -> None:
    while len(stub.asked) < num_asked and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_annotate_killed_at_random_has_each_row_once_and_asks_again_only_what_was_under_way(
    tmp_path: Path,
) -> None:
    draw = random.Random(5)
    with stub_endpoint(_says) as stub:
        path = _project(stub, tmp_path)
        for _ in range(NUM_KILLS):
            process = _started(path)
            _wait_for(stub, len(stub.asked) + draw.randint(10, 50), process)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(5)  # its actors end too, once they miss their driver
        assert _started(path).wait(timeout=500) == 0
    asked = Counter(each.words for each in stub.asked)
    assert len(asked) == NUM_PROMPTS
    assert sum(asked.values()) - NUM_PROMPTS <= NUM_KILLS * CONCURRENCY
    assert stub.most_at_once <= CONCURRENCY
    source = read_annotations(str(tmp_path / "ws" / "annotations"), StorageConfig())
    pairs = source.explanations.select(["user_id", "item_id"])
    assert pairs.num_rows == NUM_USERS * REVIEWS_PER_USER
    assert pairs.group_by(["user_id", "item_id"]).aggregate([]).num_rows == pairs.num_rows
