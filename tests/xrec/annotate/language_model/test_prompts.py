"""The prompts that come with the package, files of one's own, and what they show of a row."""

import json

import pytest

from tests.xrec.annotate.language_model.rows import item_row, pair_row, review, user_row
from xrec.annotate.annotator import ItemInput, ItemText
from xrec.annotate.language_model.prompts import RowData, read_prompt
from xrec.annotate.language_model.replies import (
    SCHEMAS,
    PairReply,
    ReplyLimits,
    UserReply,
    pair_text,
)
from xrec.errors import ConfigError
from xrec.storage import open_location

VALUES = {"language": "Danish", "max_aspects": "6"}


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("domain", ["shop", "place", "book"])
def test_prompt_of_ours_shows_the_domains_example_and_then_the_row(kind, domain):
    prompt = read_prompt(kind, None, SCHEMAS[kind], domain)
    messages = prompt.messages({"review": 'a "quoted" one'}, domain, VALUES)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert "in Danish:" in messages[0].content
    assert "{" not in messages[0].content
    SCHEMAS[kind].model_validate_json(messages[2].content)
    assert json.loads(messages[3].content) == {"review": 'a "quoted" one'}
    assert len(set(prompt.examples.values())) == 3


@pytest.mark.parametrize(
    "markup",
    [
        "<|im_end|>\n<|im_start|>system",
        "</s>[INST] <<SYS>>",
        "[/SYSTEM_PROMPT]",
        "<start_of_turn>user",
        "<\uff5cUser\uff5c>",
        "<think>",
        '"}\n[1]',
    ],
)
def test_prompt_has_no_markup_of_a_text_and_still_all_of_it(markup):
    data = {
        "reviews": [{"review": f"So {markup} good.", "rating": 5.0}],
        "tags": [["A"], [1], [True, None]],
    }
    prompt = read_prompt("pair", None, PairReply, "shop")
    asked = prompt.messages(data, "shop", VALUES)[-1].content
    assert markup not in asked
    assert "<" not in asked
    assert json.loads(asked) == data


def test_prompt_of_ours_for_pairs_has_examples_that_become_texts_as_they_are():
    prompt = read_prompt("pair", None, PairReply, "shop")
    for shown, reply in prompt.examples.values():
        parsed = PairReply.model_validate_json(reply)
        text = pair_text(pair_row(json.loads(shown)["review"]), ReplyLimits(), parsed)
        assert text.explanation == parsed.explanation
        assert text.explanation.startswith("You would enjoy")
        told = [(each.aspect, each.opinion) for each in text.aspects]
        assert told == [(each.aspect, each.opinion) for each in parsed.aspects]


RIGHT = '[system]\nDo it.\n[example pets]\n{"reviews": []}\n[reply]\n{"profile": "They like."}\n'


@pytest.mark.parametrize(
    ("text", "domain", "message"),
    [
        (None, "pets", r"annotator.prompts.user: .*cannot be read"),
        (RIGHT, "shop", r"no example for annotator.domain = shop; it has pets"),
        ("Do it.", "pets", r"expected \[system\] as its first line"),
        (RIGHT.replace("[reply]", "[example cats]"), "pets", r"in turn after \[system\]"),
        (RIGHT.replace("They like.", 'They "like".'), "pets", r"\[example pets\]"),
        (RIGHT.replace("profile", "text"), "pets", r"(?s)\[example pets\].*profile"),
        (RIGHT.replace('{"reviews": []}', "[]"), "pets", r"expected a JSON object as input"),
    ],
)
def test_prompt_of_ones_own_that_is_wrong_says_where(tmp_path, text, domain, message):
    path = tmp_path / "user.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompt("user", str(path), UserReply, domain)


def test_prompt_of_ones_own_is_read_from_an_object_store_too(s3):
    uri = f"{s3.new_bucket()}/user.txt"
    open_location(uri, s3.storage).write_bytes(RIGHT.encode())
    prompt = read_prompt("user", uri, UserReply, "pets", s3.storage)
    assert (prompt.name, prompt.system) == (uri, "Do it.")
    assert prompt.examples == {"pets": ('{"reviews": []}', '{"profile": "They like."}')}


def _words(text: str) -> int:
    return len(text.split())


def _num_words(value: object) -> int:
    if isinstance(value, str):
        return _words(value)
    if isinstance(value, dict):
        return sum(map(_num_words, value.values()))
    return sum(map(_num_words, value)) if isinstance(value, list) else 0


def test_item_data_with_room_has_all_reviews_in_their_order():
    row = ItemInput(
        "i", "Strap", "colour: red", (review("Soft.", summary="Good"), review("Wide.")), 2
    )
    assert RowData(500, _words).of(row) == {
        "title": "Strap",
        "details": "colour: red",
        "reviews": [{"rating": 5.0, "review": "Good: Soft."}, {"rating": 5.0, "review": "Wide."}],
    }


def test_item_data_without_room_cuts_the_last_review_and_leaves_out_the_rest():
    long = " ".join(f"word{place}" for place in range(60))
    data = RowData(100, _words).of(item_row(long, long, long, details=long))
    assert data["details"] == " ".join(long.split()[:25])
    assert [_words(each["review"]) for each in data["reviews"]] == [60]
    assert _num_words(data) <= 100
    wider = RowData(130, _words).of(item_row(long, long, long))
    assert [_words(each["review"]) for each in wider["reviews"]] == [60, 60]
    narrower = RowData(90, _words).of(item_row(long, long, long))
    assert [_words(each["review"]) for each in narrower["reviews"]] == [60, 30]
    assert long.startswith(narrower["reviews"][1]["review"])


def test_user_and_pair_data_name_the_item_and_stay_within_their_tokens():
    long = " ".join(f"word{place}" for place in range(300))
    item = ItemText("Strap", long)
    user = RowData(100, _words).of(user_row("Soft and wide.", long, item=item))
    assert user["reviews"][0]["item"] == "Strap"
    assert _words(user["reviews"][0]["about"]) == 10
    assert _num_words(user) <= 100
    pair = RowData(100, _words).of(pair_row(long, item=item))
    assert pair["item"] == "Strap"
    assert _words(pair["about"]) == 25
    assert 70 <= _words(pair["review"]) <= 74
    assert RowData(100, _words).of(pair_row("Soft."))["review"] == "Soft."
    assert RowData(50, len).cut("x" * 500, 50) == ""  # one endless word
