"""What other people did: as a fallback, beside a text, in a prompt, and without a model."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.world.workspace import save_recommendations
from tests.xrec.backfill.runs import never, pairs_table, published_rows
from xrec.adapter.pairs import Pair
from xrec.backfill.explain import explain_pairs, why_again
from xrec.backfill.plan import EXPLANATIONS
from xrec.bulk import Outcome
from xrec.config import DecodingConfig, PeopleWords, TextConfig
from xrec.data import Dataset, PeopleEvidence
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer
from xrec.generate.text_rules import TextFinisher
from xrec.llm.prompt import PromptBuilder
from xrec.neighbors.sentences import frames, people_evidence
from xrec.schemas import SUPPORT

OTHERS = ("others", "i1", None, 20)
HISTORY = ("history", "i1", None, None)
CATEGORY = ("category", None, "green teas", None)
POPULAR = ("popular", None, None, 50)
ABSTAINED = ("abstained", None, None, None)
WORDS = PeopleWords(chose="went to", this="this place")


def backed(*rows: tuple[str, tuple[str | None, ...]]) -> pa.Table:
    """Return planned rows of pairs such as "u0 i2" with their evidence."""
    table = pairs_table(*(pair for pair, _ in rows))
    for place, field in enumerate(SUPPORT):
        values = pa.array([evidence[place] for _, evidence in rows], field.type)
        table = table.set_column(table.schema.get_field_index(field.name), field, values)
    return table


def evidence_of(dataset: Dataset, pair: str, evidence: tuple[Any, ...]) -> PeopleEvidence | None:
    (row,) = backed((pair, evidence)).to_pylist()
    return people_evidence(dataset, row, WORDS)


def test_sentences_vary_by_pair_and_contain_the_evidence(explainer):
    dataset = explainer.dataset
    assert evidence_of(dataset, "u0 i2", ABSTAINED) is None
    assert evidence_of(dataset, "u0 i2", ("others", "no such item", None, 20)) is None
    for evidence in (OTHERS, HISTORY, CATEGORY, POPULAR):
        texts = [
            evidence_of(dataset, f"u{user} i{item}", evidence).sentence
            for user in range(300)
            for item in (0, 2)
        ]
        counts = Counter(texts)
        assert len(counts) == len(frames()[evidence[0]])
        assert counts.most_common(1)[0][1] <= 0.22 * len(texts)
        for text in counts:
            assert ("green teas" in text) == (evidence[2] is not None)
            assert (str(evidence[3]) in text) == (evidence[3] is not None)
            assert ("Place 1" in text) == (evidence[1] is not None)
    one = evidence_of(dataset, "u0 i2", ("others", "i1", None, 1000))
    assert one == evidence_of(dataset, "u0 i2", ("others", "i1", None, 1000))
    assert (one.kind, one.item_id, one.name, one.at_least) == ("others", "i1", "Place 1", 1000)
    assert "1,000" in one.sentence


@pytest.mark.usefixtures("actors_here")
def test_run_without_a_language_model_publishes_sentences_and_carries_them(runs):
    pairs = (("u0 i2", OTHERS), ("u1 i0", HISTORY), ("u2 i4", POPULAR), ("u3 i2", ABSTAINED))
    values = {
        "llm": None,
        "adapter": runs.folder / "none",
        "graph": runs.folder / "none",
        "pairs": {"kind": "recommendations"},
        "decoding": {"text": {"people": WORDS}},
    }

    def run(name: str, **changed: tuple[Any, ...]) -> Any:
        given = ((pair, changed.get(pair.split()[0], evidence)) for pair, evidence in pairs)
        rows = (
            (*pair.split(), rank, 0.5, *evidence) for rank, (pair, evidence) in enumerate(given)
        )
        save_recommendations(runs.folder / name, 9, *rows)
        return runs.run(toy=never, recommendations=runs.folder / name, **values)

    manifest = run("first")
    rows, (failed,) = published_rows(runs.output), published_rows(runs.output, failed=True)
    for row, (pair, (kind, support, _, number)) in zip(rows, pairs, strict=False):
        assert f"{row['user_id']} {row['item_id']}" == pair
        assert (row["kind"], row["evidence_kind"]) == ("plain", kind)
        assert (row.get("evidence_item_id"), row.get("evidence_at_least")) == (support, number)
        assert ("Place 1" in row["explanation"]) == (support is not None)
    assert (failed["reason"], failed["evidence_kind"]) == ("abstained", "abstained")
    assert manifest.metrics["num_carried"] == 0
    # A higher step and another supporting item change two of the four rows.
    again = run("second", u0=("others", "i1", None, 50), u1=("history", "i2", None, None))
    assert again.metrics["num_carried"] == 2
    assert again.metrics["written_again"] == {"evidence": 2}
    texts = {row["user_id"]: row["explanation"] for row in published_rows(runs.output)}
    assert "50" in texts["u0"]
    assert "Place 2" in texts["u1"]
    assert texts["u2"] == rows[2]["explanation"]


def test_a_refused_text_is_replaced_by_what_people_did(explainer, scripted):
    silent = scripted("", "")
    decoding = DecodingConfig(text={"people": WORDS})
    pairs = backed(("u0 i2", OTHERS), ("u1 i0", ABSTAINED))
    generated, failed = explain_pairs(silent, pairs, decoding, "0")
    (row,) = generated.to_pylist()
    assert row["explanation"] == evidence_of(explainer.dataset, "u0 i2", OTHERS).sentence
    assert (row["kind"], row["refused"]) == ("plain", "empty_text")
    assert failed["reason"].to_pylist() == ["empty_text"]
    # A higher step, and nothing else, makes the text outdated.
    higher = backed(("u0 i2", ("others", "i1", None, 50)))
    ok, none = EXPLANATIONS.ok_schema.names, EXPLANATIONS.failed_schema.empty_table()
    earlier = EXPLANATIONS.rows_of(
        Outcome(generated.select(ok), none),
        higher.append_column("bucket", pa.array([0], pa.int32())),
    )
    assert why_again(silent, earlier, decoding.text, "0").to_pylist() == ["evidence"]
    same = earlier.set_column(
        earlier.schema.get_field_index("evidence_at_least"),
        earlier.field("evidence_at_least"),
        pa.array([20], pa.int32()),
    )
    assert why_again(silent, same, decoding.text, "0").to_pylist() == [None]


def finisher_of(explainer: Explainer, **prompt: str) -> TextFinisher:
    builder = explainer.pairs.builder
    template = builder.prompt.model_copy(update=prompt)
    other = PromptBuilder(builder.tokenizer, template, builder.vocabulary)
    return TextFinisher(other, explainer.pairs.titles, explainer.checker)


def test_a_text_may_name_the_evidence_and_no_other_number_or_item(explainer):
    people = evidence_of(explainer.dataset, "u0 i2", OTHERS)
    texts = replace(explainer.pairs.texts(Pair(0, 2)), people=people)
    finisher, rules = finisher_of(explainer, people="Others: {people}"), TextConfig()
    for text, reason in (
        ("At least 20 people who went to Place 1 also came here.", None),
        ("At least twenty people who went to Place 1 also came here.", None),
        ("At least 21 people who went to Place 1 also came here.", "unsupported"),
        ("A hundred people who went to Place 1 also came here.", "unsupported"),
        ("At least 20 people who went to Place 3 also came here.", "names_another_item"),
    ):
        failure = finisher.unfit(text, texts, rules)
        assert (failure and failure.reason) == reason, text
    backed = TextConfig(checks={"unsupported": True})
    for text, is_fine in (
        ("You went to Place 1, so you will enjoy its garden.", True),
        ("It is a quiet garden in Place 1.", False),
        ("You will enjoy its garden. Place 1 is quiet.", False),
    ):
        assert (finisher.unfit(text, texts, backed) is None) is is_fine, text
    of_category = replace(texts, people=evidence_of(explainer.dataset, "u0 i2", CATEGORY))
    assert finisher.unfit("You will enjoy its green teas.", of_category, backed) is None
    failure = finisher.unfit("You will enjoy its craft beers.", of_category, backed)
    assert failure.reason == "unsupported"
    alone = replace(texts, people=None)
    assert finisher.unfit("People who went to Place 1 came here.", alone, rules) is not None


def test_the_prompt_shows_what_people_did_if_it_asks_for_it(explainer):
    people = evidence_of(explainer.dataset, "u0 i2", OTHERS)
    texts = replace(explainer.pairs.texts(Pair(0, 2)), people=people)
    builder = explainer.pairs.builder
    template = builder.prompt.model_copy(update={"people": "Others: {people}"})
    asking = PromptBuilder(builder.tokenizer, template, builder.vocabulary)
    assert f"\nOthers: {people.sentence}" in asking.show(asking.build(0, 2, texts))
    assert builder.build(0, 2, texts) == builder.build(0, 2, replace(texts, people=None))


def test_a_backed_text_is_followed_by_what_people_did_unless_it_says_so(explainer):
    people = evidence_of(explainer.dataset, "u0 i2", OTHERS)
    texts = replace(explainer.pairs.texts(Pair(0, 2)), people=people)
    finisher, builder = finisher_of(explainer), explainer.pairs.builder
    decoding = DecodingConfig(text={"is_backed": True})
    for written, expected in (
        ("A quiet garden.", f"A quiet garden. {people.sentence}"),
        ("A quiet garden, as in Place 1.", "A quiet garden, as in Place 1."),
    ):
        completion = Completion(0, builder.encode_explanation(written)[:-1], "stop")
        assert finisher.finish(completion, [], texts, decoding) == (expected, None)
