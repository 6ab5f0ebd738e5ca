"""Rankings of statements by hand, and judges whose scores are known."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.world.endpoint import ScriptedModel
from tests.world.town import dataset_of, held_out
from tests.xrec.text.asked import replies_in
from xrec.aspects import AspectChooser
from xrec.config import RANKERS, SamplingConfig
from xrec.data import HeldOutPair
from xrec.lab.measures.judge import (
    claim_shares,
    gpt_scores,
)
from xrec.lab.measures.ranking import StatementsRanked, rankers
from xrec.lab.measures.statements import Statements
from xrec.text import Asker, Prompt

LETTERS = ["amp", "bow", "cap", "drum"]
(PAIR,) = PAIRS = held_out((0, 0))
# Of item 0, two reviews praise drum and blame amp, one praises bow; of all, most praise bow.
TRAINED = [
    *((user, 0, 3) for user in (1, 2)),
    *((user, 0, 0, "negative") for user in (1, 2)),
    (1, 0, 1),
    *((user, 1, 1) for user in (0, 1, 2)),
    (0, 2, 0, "negative"),
    (0, 1, 0, "negative"),
    (0, 2, 2),
]
DATASET = dataset_of(
    aspects=LETTERS,
    named=[(0, 0, 3), (0, 0, 0, "negative"), (0, 0, 2), (0, 0, 1, "neutral")],
    trained=TRAINED,
    interactions=[(user, item, "train") for user, item in sorted({row[:2] for row in TRAINED})],
)
STATEMENTS = Statements(DATASET, PAIRS)


@pytest.mark.parametrize(
    ("text", "ndcg", "recall", "precision"),
    [
        # Candidates are drum, bow and no amp; of these relevant are drum and no amp.
        ("The drum.", 1 / (1 + 1 / math.log2(3)), 1 / 2, 1 / 10),
        ("The bow, the drum.", (1 / math.log2(3)) / (1 + 1 / math.log2(3)), 1 / 2, 1 / 10),
        ("An awful amp, a fine drum.", 1, 1, 2 / 10),
        ("The cap, an awful amp, a drum.", 1, 1, 2 / 10),  # cap is no candidate: it has no place
        ("A fine amp.", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_text_ranks_candidates_in_the_order_of_its_statements(text, ndcg, recall, precision):
    found = StatementsRanked(STATEMENTS).columns([PAIR], [text])
    assert [values[0] for values in found] == pytest.approx([ndcg, recall, precision])


RANKING = rankers(STATEMENTS, AspectChooser(DATASET))


def order_of(name: str) -> list[tuple[str, str]]:
    return list(RANKING[name].order(PAIR, ""))


def test_rankers_sort_the_candidates_as_their_names_say():
    drum, bow, no_amp = ("drum", "positive"), ("bow", "positive"), ("amp", "negative")
    # Reviews of the item: no amp 2, drum 2, bow 1; of the user: no amp 2, bow 1; of all: no amp 4,
    # bow 4, drum 2.
    assert order_of("item_popularity") == [no_amp, drum, bow]
    assert order_of("user_popularity") == [no_amp, bow, drum]
    assert order_of("global_popularity") == [no_amp, bow, drum]
    # Of all reviews four mention the bow without blame, two the drum, and none the amp.
    assert order_of("chooser") == [bow, drum, no_amp]
    pairs = held_out(*((user, 0) for user in range(3)))
    drawn, again = ([RANKING["random"].order(pair, "") for pair in pairs] for _ in range(2))
    assert again == drawn
    assert len({tuple(order) for order in drawn}) > 1  # of each pair its own
    assert {tuple(sorted(order)) for order in drawn} == {(no_amp, bow, drum)}
    assert tuple(RANKING) == RANKERS


# Judges

JUDGED = [HeldOutPair(f"u{n}", "i", n, 0, f"reference {n}") for n in range(40)]
WRITTEN = [*(f"text {n}" for n in range(39)), ""]


def _asker(answer: Callable[..., str], folder: Path) -> tuple[Asker, ScriptedModel]:
    model = ScriptedModel(answer)
    return Asker(model, SamplingConfig(temperature=1.0), replies_in(folder)), model


def _scores(asker: Asker) -> tuple[np.ndarray, np.ndarray]:
    references = [(pair.user_id, pair.reference) for pair in JUDGED]
    scores, failed = gpt_scores("ann", asker, references, WRITTEN)
    return scores, failed


def _number(prompt: Prompt[Any]) -> int:
    """Return the number of the pair in a question, or in a repeated one."""
    asked = next(each for each in prompt.messages if each.content.startswith('{"prediction"'))
    return int(json.loads(asked.content)["prediction"].split()[-1])


def test_judge_whose_scores_are_known_gives_the_known_table(tmp_path, caplog):
    caplog.set_level("INFO", logger="xrec")
    asker, model = _asker(lambda prompt, _: f'{{"score": {2 * _number(prompt)}}}', tmp_path)
    scores, failed = _scores(asker)
    assert scores.tolist() == [2 * n for n in range(39)] + [0]
    assert failed.tolist() == [0] * 40
    assert len(model.asked) == 39  # an empty text is not asked about
    asked = [json.loads(prompt.messages[-1].content) for prompt, _ in model.asked]
    assert {"prediction": "text 0", "reference": "reference 0"} in asked
    assert "ann: 39 requests, 390 tokens of prompts and 78 of replies; failed: none" in caplog.text


def test_judge_without_a_number_for_some_pairs_leaves_them_out_and_logs_why(tmp_path, caplog):
    caplog.set_level("INFO", logger="xrec")
    replies = {3: "no idea", 4: '{"score": "high"}', 5: '{"score": 170}', 6: ""}
    replies |= {7: '{"score": true}', 8: " 87 ", 9: "<think>Hm.</think>\n12.5"}

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        return replies.get(_number(prompt), '{"score": 50}')

    asker, _ = _asker(answer, tmp_path)
    scores, failed = _scores(asker)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 4, 5, 6, 7]
    assert scores[8:10].tolist() == [87.0, 12.5]  # a bare number is a score
    assert failed[2:9].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert "failed: 1 invalid_json, 3 invalid_object, 1 empty_reply" in caplog.text


# Claims


def test_claims_count_as_supported_only_with_a_quote_from_the_evidence(tmp_path):
    def claim(verdict: str, quote: str) -> dict[str, str]:
        return {"claim": "it is quiet", "verdict": verdict, "quote": quote}

    replies = {
        "all": [claim("supported", "A quiet GARDEN,"), claim("supported", "likes  jazz")],
        "some": [
            claim("supported", "quiet garden"),
            claim("supported", "a loud garden"),  # invented
            claim("supported", "quiet gard"),  # part of a word
            claim("supported", "back. Likes"),  # across two texts
            claim("supported", " ?"),
            claim("unsupported", "quiet garden"),
        ],
        "none": [],
    }

    def answer(prompt: Prompt[Any], _: SamplingConfig) -> str:
        asked = next(each for each in prompt.messages if each.role == "user")
        name = json.loads(asked.content)["text"]
        return json.dumps({"claims": replies[name]}) if name in replies else "no idea"

    evidence = [("u", ["A quiet garden, out back.", "Likes jazz."])] * 5
    asker, model = _asker(answer, tmp_path)
    share, count, failed = claim_shares(asker, evidence, ["all", "some", "none", "broken", ""])
    assert share == pytest.approx([1, 1 / 6, np.nan, np.nan, np.nan], nan_ok=True)
    assert count == pytest.approx([2, 6, 0, np.nan, 0], nan_ok=True)
    assert failed.tolist() == [0, 0, 0, 1, 0]
    assert "A quiet garden, out back." in model.asked[0][0].messages[-1].content
