"""Annotating by a language model behind a stub endpoint: one actor, and whole runs."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.xrec.annotate.conftest import item_row, pair_row
from tests.xrec.annotate.review_files import (
    SecretTown,
    annotate,
    annotate_config,
    dataset_tables,
    texts_of_training,
)
from xrec.annotate.annotator import Annotator, AnnotatorSpec, Aspect, PairText
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.language_model.prompts import read_prompt
from xrec.config import AnnotateConfig
from xrec.errors import BudgetError, EndpointAccessError
from xrec.jobs.annotate import look_ahead
from xrec.storage import Manifest, open_location

pytestmark = pytest.mark.usefixtures("actor_here")

KEY = "sk-a-key-that-nobody-may-see"
TOWN = SecretTown("The {secret} is soft.", num_users=4, reviews_per_user=3, num_items=4)
NUM_ITEMS, NUM_USERS, NUM_PAIRS = 4, 4, 12
NUM_PROMPTS = NUM_ITEMS + NUM_USERS + NUM_PAIRS
_SHOWN, _EXAMPLE = read_prompt("pair", None, "shop").examples["shop"]


def _repeats(asked: Asked) -> Answer:
    """Reply with all words of the row; the first six of a pair's review are aspects, too."""
    row = json.loads(asked.words)
    words = " ".join(_strings(row))[:700]
    named = [(word, word.strip(".")) for word in row.get("review", "").split()[:6]]
    aspects = [
        {"quote": quote, "aspect": name, "opinion": name, "sentiment": "positive"}
        for quote, name in named
    ]
    texts = {"title": "A strap", "profile": words, "explanation": words}
    return Answer(text=json.dumps({**texts, "aspects": aspects}))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [text for part in parts if not isinstance(part, float) for text in _strings(part)]


def _config(
    stub: StubEndpoint | None = None, folder: Path | str = "ws", **values: Any
) -> AnnotateConfig:
    model = {"kind": "endpoint", "model": "stub", **({"base_url": stub.url} if stub else {})}
    model |= values.pop("model", {})
    annotator = {"kind": "language_model", "model": model, "folds": 0}
    annotator |= values.pop("annotator", {})
    return annotate_config(folder, f"{folder}/reviews.jsonl", annotator=annotator, **values)


def _spec(*args: Any, **values: Any) -> AnnotatorSpec:
    return language_model_spec(_config(*args, **values), {"OPENAI_API_KEY": KEY})


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Make the workspace `ws`, which keeps replies, the test's own."""
    monkeypatch.chdir(tmp_path)


def _made(spec: AnnotatorSpec, folder: Path) -> Annotator:
    """Return the annotator, made from a pickled spec as in an actor."""
    return cloudpickle.loads(cloudpickle.dumps(spec)).make(open_location(str(folder)), 0)


def test_annotator_asks_once_more_for_quotes_that_the_review_has(tmp_path):
    def invents(asked: Asked) -> Answer:
        quote = "Soft" if "Answer once more" in asked.words else "lasts for years"
        aspect = {"quote": quote, "aspect": "feel", "opinion": "", "sentiment": "positive"}
        return Answer(text=json.dumps({"aspects": [aspect], "explanation": "You would enjoy it."}))

    with stub_endpoint(invents) as stub:
        annotator = _made(_spec(stub), tmp_path)
        for _ in range(2):  # the valid reply is stored
            (found,) = annotator.write([pair_row("Soft.")]).results
            assert found == PairText("You would enjoy it.", (Aspect("feel", "", "positive"),))
    assert len(stub.asked) == 2
    assert "no aspect has a quote that is in the review" in stub.asked[1].words


@pytest.mark.parametrize(("language", "reason"), [("de", "other_language"), ("English", None)])
def test_annotator_refuses_a_text_in_another_language(tmp_path, language, reason):
    with stub_endpoint(_repeats) as stub:
        annotator = _made(_spec(stub, annotator={"language": language}), tmp_path)
        (found,) = annotator.write([item_row("it is soft and wide and easy to clean.")]).results
    assert getattr(found, "reason", None) == reason
    name = "German" if language == "de" else "English"
    assert f"in {name}" in stub.asked[0].body["messages"][0]["content"]


def test_spec_identifies_prompts_and_model_but_no_limits_and_no_key(tmp_path):
    spec = _spec()
    same = _spec(model={"concurrency": 3, "requests_per_minute": 5})
    assert spec.settings == same.settings
    path = tmp_path / "user.txt"
    path.write_text('[system]\nA.\n[example shop]\n{}\n[reply]\n{"profile": "B."}\n')
    own = {"prompts": {"user": str(path)}}
    others = [_spec(annotator=each) for each in ({"language": "Danish"}, {"domain": "book"}, own)]
    others += [_spec(model=each) for each in ({"model": "other"}, {"temperature": 1})]
    path.write_text(path.read_text().replace("A.", "C."))
    others.append(_spec(annotator=own))
    assert len({json.dumps(each.settings) for each in [spec, *others]}) == 7
    assert KEY not in json.dumps(spec.settings)
    assert KEY not in repr(spec)


@pytest.mark.parametrize(
    ("reply", "reason", "num_requests"),
    [
        ("I would rather not.", "invalid_json", 3),
        (_EXAMPLE, "copies_example", 2),
        ('{"aspects": [], "explanation": ""}', "no_full_sentence", 2),
        ('{"aspects": [], "explanation": "It is blue."}', "failed_check", 3),
    ],
)
def test_annotator_fails_only_the_row_whose_reply_is_unusable(
    tmp_path, reply, reason, num_requests
):
    def behave(asked: Asked) -> Answer:
        is_wide = "Wide" in json.dumps(asked.body["messages"])
        return Answer(text=reply) if is_wide else _repeats(asked)

    with stub_endpoint(behave) as stub:
        wide = pair_row(f"Wide. {json.loads(_SHOWN)['review']}")
        rows = [pair_row("Soft."), wide, pair_row("Soft.", number=1)]
        written = _made(_spec(stub), tmp_path).write(rows)
    assert isinstance(written.results[0], PairText)
    failure = written.results[1]
    assert failure.reason == reason
    assert failure.reason in _spec(None).reasons
    assert failure.reply.replace(" ", "") == reply.replace(" ", "")
    assert (written.costs["requests"], written.costs["equal_prompts"]) == (num_requests, 1)


def _town(stub: StubEndpoint, folder: Path, **values: Any) -> AnnotateConfig:
    """Return the config of a run over the town's reviews."""
    TOWN.write(folder / "reviews.jsonl")
    shared = {"vocabulary": {"min_reviews": 1}, "rows_per_chunk": 4}
    return _config(stub, folder, model={"concurrency": 3, "max_tokens": 50}, **shared, **values)


def _run(config: AnnotateConfig) -> Manifest | None:
    return annotate(config, language_model_spec(config, {"OPENAI_API_KEY": KEY}))


def test_run_shows_no_held_out_review_to_training_and_writes_no_key(tmp_path):
    with stub_endpoint(_repeats) as stub:
        config = _town(stub, tmp_path)
        assert _run(config) is not None
    held_out, others = TOWN.secrets(held_out=True), TOWN.secrets(held_out=False)
    rows = [json.loads(asked.words) for asked in stub.asked]
    is_own = [any(secret in row.get("review", "") for secret in held_out) for row in rows]
    assert sum(is_own) == len(held_out)  # each is in one prompt, for its reference
    asked_of_others = zip(stub.asked, is_own, strict=True)
    prompts = " ".join(asked.words for asked, own in asked_of_others if not own)
    about = " ".join(row["about"] for row in rows if "about" in row)
    training = texts_of_training(dataset_tables(config))
    for words in (prompts, training):
        assert all(secret in words for secret in others)
    for words in (prompts, training, about):
        assert not [secret for secret in held_out if secret in words]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_run_that_ended_amid_a_chunk_asks_again_only_for_prompts_in_progress(tmp_path):
    is_fixed = False

    def behave(asked: Asked) -> Answer:
        is_over = len(stub.asked) > 14 and not is_fixed
        return Answer(status=401) if is_over else _repeats(asked)

    with stub_endpoint(behave) as stub:
        config = _town(stub, tmp_path)
        with pytest.raises(EndpointAccessError):
            _run(config)
        is_fixed = True
        manifest = _run(config)
    asked = Counter(each.words for each in stub.asked)
    assert len(asked) == NUM_PROMPTS
    assert sum(asked.values()) - NUM_PROMPTS <= 3  # those that were refused
    assert manifest.metrics["costs"]["prompt_tokens"] == 11 * NUM_PROMPTS
    assert manifest.row_counts["explanations"] == NUM_PAIRS


def test_run_beyond_its_budget_ends_and_continues_with_a_larger_one(tmp_path):
    def behave(asked: Asked) -> Answer:
        return replace(_repeats(asked), num_tokens=(600, 50))

    with stub_endpoint(behave) as stub:
        small = _town(stub, tmp_path, budget={"tokens": 5000})
        for _ in range(2):  # the second run finds the replies of the first one and asks nothing
            with raises(BudgetError, "budget_used_up", "budget.tokens") as ended:
                _run(small)
            assert 5000 <= 650 * len(stub.asked) <= 5000 + 3 * 650  # three were in progress
        costs = ended.value.metrics["costs"]  # of all finished chunks
        assert 0 < costs["prompt_tokens"] + costs["reply_tokens"] <= 650 * len(stub.asked)
        assert _run(_town(stub, tmp_path)) is not None
    assert len(stub.asked) == NUM_PROMPTS


def test_look_ahead_counts_prompts_tokens_and_money_and_asks_nothing(tmp_path):
    with stub_endpoint(_repeats) as stub:
        prices = {"million_prompt_tokens": 1000, "million_reply_tokens": 4000}
        lines = look_ahead(_town(stub, tmp_path, prices=prices))
        assert not stub.asked
    assert [each.name for each in tmp_path.iterdir()] == ["reviews.jsonl"]
    pattern = r"(\w+): (\d+) prompts of .* tokens, ([\d,]+) in all;"
    kinds, counts, tokens = zip(*re.findall(pattern, "\n".join(lines)), strict=True)
    assert kinds[:3] == ("items", "users", "pairs")
    assert [int(count) for count in counts[:3]] == [NUM_ITEMS, NUM_USERS, NUM_PAIRS]
    shown = sum(int(each.replace(",", "")) for each in tokens[:3])
    money = shown / 1000 + 50 * NUM_PROMPTS * 4 / 1000
    assert f"cost: at most {money:,.2f} at the configured token prices" in lines
