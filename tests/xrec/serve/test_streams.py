"""Streams over HTTP, of texts that a scripted model writes token by token.

What a client has when a stream ends is what the other route answers, and by default no client ever
has a part of a sentence, or a sentence, that is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.xrec.serve.local_endpoint import Endpoint, local_endpoint, sse
from tests.xrec.serve.scripted_engine import ScriptedEngine
from tests.xrec.serve.test_app import wait_until
from tests.xrec.serve.test_live_explainer import TEA, choosing
from tests.xrec.serve.town import ITEMS, USERS, dataset_of, rows_of
from xrec.checks import Checker
from xrec.config.decoding import DecodingConfig

PAIR = {"user_id": USERS[0], "item_id": ITEMS[0], "fresh": True}
CALM, QUIET = "You would love [title].", "It is calm at night."
GARDEN = "It has old trees and a small garden."
RUDE = "The rubbish is old."  # "rubbish" is on the list of unsafe words
SECOND_TRY = {"retry_temperature": 0.4}
LONG = "You would love [title] for its quiet garden, its tea and its old trees in the sun."


@dataclass
class Stage:
    """An endpoint whose model writes what a test says."""

    endpoint: Endpoint
    titles: list[str]
    unsafe_words: Path

    def post(
        self, route: str, *texts: str, ends: bool = True, rules: Any = None, **body: Any
    ) -> requests.Response:
        """Answer the pair; the tries of the model write `texts`."""
        live, checks = self.endpoint.model.live, {"unsafe_words": str(self.unsafe_words)}
        text = {"checks": checks, "retry_temperature": None, **(rules or {})}
        live._decoding = DecodingConfig.model_validate({"text": text})
        filled = [text.replace("{other}", self.titles[1]) for text in texts]
        live.engine = ScriptedEngine(live, *filled, ends=ends)
        return self.endpoint.post(
            f"/v1/explanations{route}", {"pairs": [PAIR], **body}, stream=not ends
        )

    def events(self, *texts: str, **values: Any) -> list[tuple[str, Any]]:
        """The events of a stream but its last, "done", without the index, which is 0."""
        *events, last = sse(self.post("/stream", *texts, **values))
        assert last == ("done", {})
        assert {data.pop("index") for _, data in events} == {0}
        return events

    def filled(self, text: str) -> str:
        return text.replace("[title]", self.titles[0])


@pytest.fixture(scope="module")
def stage(town, tmp_path_factory):
    words = tmp_path_factory.mktemp("words") / "unsafe.txt"
    words.write_text("rubbish\n")
    with local_endpoint(town) as endpoint:
        engine = endpoint.model.live.engine
        yield Stage(endpoint, dataset_of(town).items["title"].to_pylist(), words)
        endpoint.model.live.engine = engine


def parts_of(events: list[tuple[str, Any]]) -> list[str]:
    """The parts, and "<" for a withdrawal of those before."""
    return ["<" if name == "withdrawn" else data["text"] for name, data in events[:-1]]


def left_of(events: list[tuple[str, Any]]) -> str:
    """The text that a client has in the end."""
    return "|".join(parts_of(events)).rpartition("<")[2].replace("|", "")


@pytest.mark.parametrize(
    "sentences",
    [
        [LONG],
        [CALM, f" {QUIET}", " It has a garden"],
        ["It has 4.5 stars.", " Ask at No. 5 of St. Mary's for [title]!", ' "It is calm."'],
    ],
)
def test_stream_sends_each_sentence_once_it_is_whole(stage, sentences):
    events = stage.events("".join(sentences))
    assert parts_of(events) == [stage.filled(sentence) for sentence in sentences]
    assert all(data["is_checked"] for _, data in events[:-1])
    assert events[-1][1]["answer"]["explanation"] == stage.filled("".join(sentences))


@pytest.mark.parametrize(
    ("tries", "rules", "parts", "end"),
    [
        ([RUDE], {"fallback": "none"}, [], "unsafe"),
        ([f"{RUDE} {QUIET} {CALM}"], {}, [], "unsafe"),
        (["You would love {other}."], {"fallback": "abstain"}, [], "abstained"),
        ([RUDE, QUIET], SECOND_TRY, [QUIET], ""),
        ([f"{QUIET} {RUDE}"], {}, [QUIET, "<"], "unsafe"),
        ([f"{QUIET} {RUDE} {CALM}", CALM], SECOND_TRY, [QUIET, "<", CALM], ""),
        (
            [f"{LONG} {RUDE}", f"{CALM} {QUIET} So"],
            SECOND_TRY,
            [LONG, "<", CALM, f" {QUIET}", " So"],
            "",
        ),
        ([f"{QUIET} {RUDE}", f"{QUIET} {CALM}"], SECOND_TRY, [QUIET, f" {CALM}"], ""),
        ([f"{QUIET} {CALM} {RUDE}"], {"max_words": 11}, [QUIET, f" {CALM}"], ""),
    ],
)
def test_refused_sentence_never_reaches_the_client_and_those_before_it_are_withdrawn(
    stage, tries, rules, parts, end
):
    response = stage.post("/stream", *tries, rules=rules)
    assert "rubbish" not in response.text.partition('"problem"')[0]
    assert stage.titles[1] not in response.text.partition('"problem"')[0]
    *events, _ = sse(response)
    assert parts_of(events) == [stage.filled(part) for part in parts]
    problem = events[-1][1]["answer"].get("problem", {"type": ""})
    assert problem["type"].rpartition("/")[2] == end


@pytest.mark.parametrize("parts", ["checked", "unchecked"])
@pytest.mark.parametrize(
    ("tries", "rules", "max_words"),
    [
        ([LONG], {}, None),
        ([LONG], {}, 9),
        ([f"{QUIET} {CALM} {GARDEN} So"], {}, 4),
        ([f"{QUIET} {CALM} {QUIET}"], {}, 12),
        ([f"{QUIET} {CALM} {GARDEN}"], {"max_words": 11}, None),
        ([f"{QUIET} {CALM} {GARDEN}"], {"max_words": 11}, 5),
        ([f"{QUIET} {RUDE}"], {}, None),
        ([f"{QUIET} {RUDE}", f"{QUIET} {CALM}"], SECOND_TRY, None),
        (["So calm. " * 5], {"refuses_repetition": True}, None),
        (["{other} is calm.", "It is calm"], SECOND_TRY, None),
    ],
)
def test_client_has_in_the_end_what_the_other_route_answers(stage, tries, rules, max_words, parts):
    whole = stage.post("", *tries, rules=rules, max_words=max_words).json()["explanations"][0]
    events = stage.events(*tries, rules=rules, max_words=max_words, parts=parts)
    assert events[-1] == ("explanation", {"answer": whole})
    assert left_of(events) == whole.get("explanation", "")


@pytest.mark.parametrize(
    ("text", "rules", "parts"),
    [
        (RUDE, {}, ["{plain}"]),
        (f"{QUIET} {RUDE}", {}, [QUIET, "<", "{plain}"]),
        (QUIET, {"is_backed": True}, [f"{QUIET} {{backing}}"]),
        (f"{QUIET} {CALM}", {"is_backed": True}, [QUIET, f" {CALM} {{backing}}"]),
    ],
)
def test_evidence_follows_the_last_sentence_or_takes_the_place_of_a_refused_text(
    stage, monkeypatch, text, rules, parts
):
    choosing(stage.endpoint.model.live, monkeypatch, aspects=TEA)
    events = stage.events(text, rules=rules)
    told = (
        "4 of 9 reviews{} mention the tea, which you mention in 2 of your 3, and 2 the late hour."
    )
    plain, backing = told.format(f" of {stage.titles[0]}"), told.format("")
    assert parts_of(events) == [
        stage.filled(part).format(plain=plain, backing=backing) for part in parts
    ]


def test_aspects_of_an_answer_say_whether_its_text_names_them(stage, monkeypatch):
    live = choosing(stage.endpoint.model.live, monkeypatch, aspects=TEA)
    monkeypatch.setattr(live._explainer, "checker", Checker(["tea", "late hour"]))
    answer = stage.events("You would love [title] for its late hours.")[-1][1]["answer"]
    assert [each["is_named"] for each in answer["aspects"]] == [False, True]


def test_unchecked_stream_sends_all_as_it_is_written_and_says_so(stage):
    events = stage.events(f"{QUIET} {RUDE}", parts="unchecked")
    *drafts, withdrawn, (last, answer) = events
    assert len(drafts) > 10
    assert {data["is_checked"] for _, data in drafts} == {False}
    assert "rubbish" in "".join(data["text"] for _, data in drafts)
    assert (withdrawn, last) == (("withdrawn", {}), "explanation")
    assert answer["answer"]["problem"]["type"] == "/problems/unsafe"


def test_text_of_the_backfill_is_one_part(stage, town):
    (user, item), known = next(iter(rows_of(town / "explanations").items()))
    pair = {"user_id": user, "item_id": item}
    events = stage.events(pairs=[pair], parts="unchecked")
    assert events[0] == ("part", {"text": known, "is_checked": True})
    assert [name for name, _ in events] == ["part", "explanation"]
    assert events[1][1]["answer"]["source"] == "backfill"


def test_pairs_of_a_stream_come_one_after_the_other_with_their_index(stage):
    pairs = [PAIR, {"user_id": "nobody", "item_id": ITEMS[0]}]
    *events, done = sse(stage.post("/stream", f"{QUIET} {CALM}", pairs=pairs))
    assert [(name, data["index"]) for name, data in events] == [
        ("part", 0),
        ("part", 0),
        ("explanation", 0),
        ("explanation", 1),
    ]
    assert events[-1][1]["answer"]["problem"]["type"] == "/problems/unknown_user"
    assert done == ("done", {})


@pytest.mark.parametrize("begun", [f"{QUIET} So it is go", f"{QUIET} {CALM} {RUDE} An"])
def test_client_that_goes_away_in_mid_sentence_stops_the_model(stage, begun):
    live = stage.endpoint.model.live
    values = stage.endpoint.metrics.values
    before = values.get(("abandoned",), 0)
    with stage.post("/stream", begun, ends=False) as response:
        lines = response.iter_lines(decode_unicode=True)
        assert next(lines) == "event: part"
        assert QUIET in next(lines)
        assert live.num_pending == 1
    wait_until(lambda: not live.num_pending, 10)
    assert values["abandoned",] == before + 1
