"""Annotating by a language model behind a stub endpoint: one actor, and whole runs."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.xrec.annotate.conftest import item_row, pair_row, user_row
from tests.xrec.annotate.review_files import (
    SecretTown,
    annotate,
    annotate_config,
    dataset_tables,
    texts_of_training,
)
from xrec.annotate.annotator import Annotator, AnnotatorSpec, Aspect, ItemText, PairText, UserText
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.language_model.prompts import read_prompt
from xrec.annotate.language_model.replies import PairReply
from xrec.config import AnnotateConfig
from xrec.errors import BudgetError, EndpointAccessError
from xrec.jobs.annotate import look_ahead
from xrec.storage import Manifest, open_location

KEY = "sk-a-key-that-nobody-may-see"


_SHOWN, _EXAMPLE = read_prompt("pair", None, PairReply, "shop").examples["shop"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The workspace `ws`, which keeps replies, is the test's own."""
    monkeypatch.chdir(tmp_path)


def _says(asked: Asked) -> Answer:
    """Reply with what the row says: the first words of its first review."""
    data = json.loads(asked.words)
    text = data["review"] if "review" in data else data["reviews"][0]["review"]
    aspect = {"quote": text[:60], "aspect": "strap", "opinion": "soft", "sentiment": "positive"}
    texts = {"title": "A strap", "profile": f"They say {text[:60]}"}
    texts |= {"explanation": f"You would enjoy {text[:60]}"}
    return Answer(text=json.dumps({**texts, "aspects": [aspect]}))


def _spec(stub: StubEndpoint | None, **settings: Any) -> AnnotatorSpec:
    url = stub.url if stub else "http://127.0.0.1:9/v1"
    model = {"kind": "endpoint", "base_url": url, "model": "stub", **settings.pop("model", {})}
    return language_model_spec(_settings(model=model, **settings), {"OPENAI_API_KEY": KEY})


def _settings(**annotator: Any) -> AnnotateConfig:
    return annotate_config("ws", "r.jsonl", annotator={"kind": "language_model", **annotator})


def _made(spec: AnnotatorSpec, folder: Path) -> Annotator:
    """The annotator, made as in an actor: of a pickled spec."""
    return cloudpickle.loads(cloudpickle.dumps(spec)).make(open_location(str(folder)), 0)


def test_annotator_of_an_endpoint_writes_the_three_kinds_of_text(tmp_path):
    with stub_endpoint(_says) as stub:
        annotator = _made(_spec(stub), tmp_path)
        items = annotator.write([item_row("Soft."), item_row("Wide.", title="Strap 2")])
        users = annotator.write([user_row("Soft.", item=ItemText("Strap 2", "A strap."))])
        pairs = annotator.write([pair_row("Soft.")])
    assert items.results == [
        ItemText("A strap", "They say Soft.", title_is_made=True),
        ItemText("Strap 2", "They say Wide."),
    ]
    assert users.results == [UserText("They say Soft.")]
    aspects = (Aspect("strap", "soft", "positive"),)
    assert pairs.results == [PairText("You would enjoy Soft.", aspects)]
    costs = {
        "prompt_tokens": 22,
        "reply_tokens": 14,
        "requests": 2,
        "equal_prompts": 0,
        "maybe_paid_twice": 0,
    }
    assert items.costs == costs


@pytest.mark.parametrize("is_mended", [True, False])
def test_annotator_asks_once_more_for_quotes_that_the_review_has(tmp_path, is_mended):
    def invents(asked: Asked) -> Answer:
        is_second = "Answer once more" in asked.words
        quote = "Soft" if is_second and is_mended else "lasts for years"
        aspect = {"quote": quote, "aspect": "feel", "opinion": "", "sentiment": "positive"}
        return Answer(text=json.dumps({"aspects": [aspect], "explanation": "You would enjoy it."}))

    with stub_endpoint(invents) as stub:
        annotator = _made(_spec(stub), tmp_path)
        (found,) = annotator.write([pair_row("Soft.")]).results
        assert annotator.write([pair_row("Soft.")]).results == [found]
    assert len(stub.asked) == 2  # replies are kept
    assert "no aspect has a quote that is in the review" in stub.asked[1].words
    if is_mended:
        assert found == PairText("You would enjoy it.", (Aspect("feel", "", "positive"),))
    else:
        assert found.reason == "failed_check"
        assert "lasts for years" in found.reply


@pytest.mark.parametrize(("language", "reason"), [("de", "other_language"), ("English", None)])
def test_annotator_refuses_a_text_in_another_language(tmp_path, language, reason):
    with stub_endpoint(_says) as stub:
        annotator = _made(_spec(stub, language=language), tmp_path)
        (found,) = annotator.write([item_row("it is soft and wide and easy to clean.")]).results
    assert getattr(found, "reason", None) == reason
    name = "German" if language == "de" else "English"
    assert f"in {name}" in stub.asked[0].body["messages"][0]["content"]


def test_spec_names_prompts_and_model_and_neither_limits_nor_the_key(tmp_path):
    spec = _spec(None)
    same = _spec(None, model={"concurrency": 3, "requests_per_minute": 5})
    assert spec.settings == same.settings
    path = tmp_path / "user.txt"
    path.write_text('[system]\nA.\n[example shop]\n{}\n[reply]\n{"profile": "B."}\n')
    changes = [{"language": "Danish"}, {"domain": "book"}, {"prompts": {"user": str(path)}}]
    changes += [{"model": {"model": "other"}}, {"model": {"temperature": 1}}]
    others = [_spec(None, **change) for change in changes]
    path.write_text(path.read_text().replace("A.", "C."))
    others.append(_spec(None, prompts={"user": str(path)}))
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
def test_annotator_reply_that_cannot_be_used_fails_alone(tmp_path, reply, reason, num_requests):
    def behave(asked: Asked) -> Answer:
        is_wide = "Wide" in json.dumps(asked.body["messages"])
        return Answer(text=reply) if is_wide else _says(asked)

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


pytestmark = pytest.mark.usefixtures("actor_here")

TOWN = SecretTown("The {secret} is soft.")
NUM_ITEMS, NUM_USERS, NUM_PAIRS = 5, 8, 32
NUM_PROMPTS = NUM_ITEMS + NUM_USERS + NUM_PAIRS


def _repeats(asked: Asked) -> Answer:
    """Reply with all words of the row, as aspects too."""
    row = json.loads(asked.words)
    words = " ".join(_strings(row))[:700]
    names = [word for word in row.get("review", "").split() if word.startswith("zq")]
    aspects = [
        {"quote": name, "aspect": name, "opinion": "", "sentiment": "positive"} for name in names
    ]
    texts = {"title": "A strap", "profile": words, "explanation": words}
    return Answer(text=json.dumps({**texts, "aspects": aspects}))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [text for part in parts if not isinstance(part, float) for text in _strings(part)]


def _config(
    stub: StubEndpoint,
    tmp_path: Path,
    prices: dict[str, float] | None = None,
    **budget: float,
) -> AnnotateConfig:
    usual = {"kind": "endpoint", "base_url": stub.url, "model": "stub", "concurrency": 3}
    usual |= {"max_tokens": 50}
    return annotate_config(
        tmp_path / "ws",
        TOWN.write(tmp_path / "reviews.jsonl"),
        annotator={"kind": "language_model", "model": usual, "folds": 0},
        budget=budget,
        prices=prices or {},
        vocabulary={"min_reviews": 1},
        rows_per_chunk=8,
    )


def _run(config: AnnotateConfig) -> Manifest | None:
    return annotate(config, language_model_spec(config, {"OPENAI_API_KEY": KEY}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, actor_here):
    """A run in which nothing goes wrong, and what it asked."""
    folder = tmp_path_factory.mktemp("whole")
    with stub_endpoint(_repeats) as stub:
        config = _config(stub, folder)
        assert _run(config) is not None
    return SimpleNamespace(folder=folder, config=config, asked=stub.asked)


def test_run_no_word_of_a_held_out_review_is_in_any_prompt_or_text_of_training(whole):
    held_out, others = TOWN.secrets(held_out=True), TOWN.secrets(held_out=False)
    rows = [json.loads(asked.words) for asked in whole.asked]
    is_own = [any(secret in row.get("review", "") for secret in held_out) for row in rows]
    assert sum(is_own) == len(held_out)  # each is asked about itself, for the reference
    asked_of_others = zip(whole.asked, is_own, strict=True)
    prompts = " ".join(asked.words for asked, own in asked_of_others if not own)
    about = " ".join(row["about"] for row in rows if "about" in row)
    training = texts_of_training(dataset_tables(whole.config))
    for words in (prompts, training):
        assert all(secret in words for secret in others)
    for words in (prompts, training, about):
        assert not [secret for secret in held_out if secret in words]


def test_run_leaves_no_key_in_any_file(whole):
    written = [path for path in whole.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_run_that_ended_amid_a_chunk_asks_only_for_what_was_under_way(tmp_path):
    is_mended = False

    def behave(asked: Asked) -> Answer:
        is_over = len(stub.asked) > 40 and not is_mended
        return Answer(status=401) if is_over else _repeats(asked)

    with stub_endpoint(behave) as stub:
        config = _config(stub, tmp_path)
        with pytest.raises(EndpointAccessError):
            _run(config)
        is_mended = True
        manifest = _run(config)
    asked = Counter(each.words for each in stub.asked)
    assert len(asked) == NUM_PROMPTS
    assert sum(asked.values()) - NUM_PROMPTS <= 3  # those that were refused
    assert manifest.metrics["costs"]["prompt_tokens"] == 11 * NUM_PROMPTS
    assert manifest.row_counts["explanations"] == NUM_PAIRS


def test_run_beyond_its_budget_ends_and_goes_on_with_a_larger_one(tmp_path):
    def behave(asked: Asked) -> Answer:
        return replace(_repeats(asked), num_tokens=(600, 50))

    with stub_endpoint(behave) as stub:
        small = _config(stub, tmp_path, tokens=12_000)
        for _ in range(2):  # the second run finds the replies of the first one, and asks nothing
            with raises(BudgetError, "budget_used_up", "budget.tokens") as ended:
                _run(small)
            assert 12_000 <= 650 * len(stub.asked) <= 12_000 + 3 * 650  # three were at work
        costs = ended.value.metrics["costs"]  # of all chunks that are done
        assert 0 < costs["prompt_tokens"] + costs["reply_tokens"] <= 650 * len(stub.asked)
        assert _run(_config(stub, tmp_path)) is not None
    assert len(stub.asked) == NUM_PROMPTS


def test_run_failed_replies_have_their_reasons_and_are_asked_again_by_a_retry(tmp_path):
    is_mended = False

    def behave(asked: Asked) -> Answer:
        words = json.dumps(asked.body["messages"][3:])
        is_odd = "zquavax" in words and '\\"about\\"' in words and "reviews" not in words
        return Answer(text="No.") if is_odd and not is_mended else _repeats(asked)

    with stub_endpoint(behave) as stub:
        config = _config(stub, tmp_path)
        manifest = _run(config)
        failed = manifest.metrics["failed"]["pairs"]
        assert set(failed) == {"invalid_json"}
        assert _run(config) is not None
        num_asked = len(stub.asked)
        is_mended = True
        retried = _run(config.model_copy(update={"retry_failed": ("all",)}))
    assert retried.metrics["failed"]["pairs"] == {}
    assert len(stub.asked) - num_asked == failed["invalid_json"]


def test_look_ahead_tells_prompts_tokens_money_and_three_prompts_of_each_kind(tmp_path):
    with stub_endpoint(_repeats) as stub:
        prices = {"million_prompt_tokens": 1000, "million_reply_tokens": 4000}
        config = _config(stub, tmp_path, prices=prices, tokens=1000)
        lines = look_ahead(config)
        assert not stub.asked
    assert not (tmp_path / "ws").exists()
    told = re.findall(r"(\w+: \d+) prompts of .* tokens, ([\d,]+) in all;", "\n".join(lines[:3]))
    counts = [f"items: {NUM_ITEMS}", f"users: {NUM_USERS}", f"pairs: {NUM_PAIRS}"]
    assert [count for count, _ in told] == counts
    shown = [int(tokens.replace(",", "")) for _, tokens in told]
    said = 50 * NUM_PROMPTS
    assert f"{sum(shown) + said:,} tokens" in lines[3]
    assert "budget.tokens = 1,000 ends the run earlier" in lines[3]
    money = sum(shown) / 1000 + said * 4 / 1000
    assert f"cost: at most {money:,.2f} at the configured token prices" in lines
    pairs = [json.loads(line.split(": ", 1)[1]) for line in lines if "user (pairs " in line]
    assert ["is soft." in row["review"] for row in pairs] == [True] * 3
    assert sum("are data" in line for line in lines) == 3
