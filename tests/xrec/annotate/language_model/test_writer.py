"""The annotator as an actor makes it, with a stub endpoint in the model's place."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from tests.world.endpoint import Answer, Asked, StubEndpoint, stub_endpoint
from tests.xrec.annotate.language_model.rows import item_row, pair_row, user_row
from xrec.annotate.annotator import Annotator, AnnotatorSpec, Aspect, ItemText, PairText, UserText
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.language_model.prompts import read_prompt
from xrec.annotate.language_model.replies import PairReply
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ConfigError
from xrec.storage import open_location

KEY = "sk-a-key-that-nobody-may-see"


_SHOWN, _EXAMPLE = read_prompt("pair", None, PairReply, "shop").examples["shop"]


def _says(asked: Asked) -> Answer:
    """Reply with what the row says: the first words of its first review."""
    data = json.loads(asked.words)
    text = data["review"] if "review" in data else data["reviews"][0]["review"]
    said = f"They say {text[:60]}"
    reply = {
        "title": "A strap",
        "profile": said,
        "explanation": f"You would enjoy {text[:60]}",
        "aspects": [
            {"quote": text[:60], "aspect": "strap", "opinion": "soft", "sentiment": "positive"}
        ],
    }
    return Answer(text=json.dumps(reply))


def _spec(stub: StubEndpoint | None, **settings: Any) -> AnnotatorSpec:
    model = {
        "kind": "endpoint",
        "base_url": stub.url if stub else "http://127.0.0.1:9/v1",
        "model": "stub",
        **settings.pop("model", {}),
    }
    annotator = {"kind": "language_model", "model": model, **settings}
    return language_model_spec(_config(annotator), {"OPENAI_API_KEY": KEY})


def _config(annotator: dict[str, Any]) -> AnnotateConfig:
    source = {"kind": "reviews", "uri": "reviews.jsonl"}
    return AnnotateConfig.model_validate(
        {"workspace": "ws", "source": source, "annotator": annotator}
    )


def _made(spec: AnnotatorSpec, folder: Path) -> Annotator:
    """The annotator, made as in an actor: of a pickled spec."""
    return cloudpickle.loads(cloudpickle.dumps(spec)).make(open_location(str(folder)))


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
    assert pairs.results == [
        PairText("You would enjoy Soft.", (Aspect("strap", "soft", "positive"),))
    ]
    assert items.costs == {
        "prompt_tokens": 22,
        "reply_tokens": 14,
        "requests": 2,
        "equal_prompts": 0,
    }


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
        num_asked = len(stub.asked)
        assert annotator.write([pair_row("Soft.")]).results == [found]  # kept, and not asked again
    assert num_asked == len(stub.asked) == 2
    assert "no aspect has a quote that stands in the review" in stub.asked[1].words
    if is_mended:
        assert found == PairText("You would enjoy it.", (Aspect("feel", "", "positive"),))
    else:
        assert found.reason == "failed_check"
        assert "lasts for years" in found.reply


@pytest.mark.parametrize(
    ("language", "reason"), [("de", "other_language"), ("en", None), ("English", None)]
)
def test_annotator_refuses_a_text_in_another_language(tmp_path, language, reason):
    with stub_endpoint(_says) as stub:
        annotator = _made(_spec(stub, language=language), tmp_path)
        (found,) = annotator.write([item_row("it is soft and wide and easy to clean.")]).results
    assert getattr(found, "reason", None) == reason
    name = "German" if language == "de" else "English"
    assert f"in {name}" in stub.asked[0].body["messages"][0]["content"]
    if reason:
        assert found.message == "the text is in English, and annotator.language is German"


def test_spec_names_prompts_and_model_and_neither_limits_nor_the_key(tmp_path):
    spec = _spec(None)
    same = _spec(None, model={"concurrency": 3, "requests_per_minute": 5})
    assert spec.settings == same.settings
    path = tmp_path / "user.txt"
    path.write_text('[system]\nA.\n[example shop]\n{}\n[reply]\n{"profile": "B."}\n')
    others = [
        _spec(None, language="Danish"),
        _spec(None, domain="book"),
        _spec(None, model={"model": "other"}),
        _spec(None, model={"sampling": {"seed": 1}}),
        _spec(None, prompts={"user": str(path)}),
    ]
    path.write_text(path.read_text().replace("A.", "C."))
    others.append(_spec(None, prompts={"user": str(path)}))
    assert len({json.dumps(each.settings) for each in [spec, *others]}) == 7
    assert KEY not in json.dumps(spec.settings)
    assert KEY not in repr(spec)


def test_spec_without_a_language_model_or_key_is_an_error():
    engine = {"kind": "language_model", "model": {"kind": "engine"}}
    with pytest.raises(ConfigError, match="needs llm"):
        language_model_spec(_config(engine), {})
    endpoint = _config({"kind": "language_model", "model": {"kind": "endpoint", "model": "m"}})
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        language_model_spec(endpoint, {})
    language_model_spec(endpoint, None)


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
