from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.descriptions import coverage_lines, example_lines, summary_lines
from xrec.evaluate.scores import Coverage, ScoredPair


def test_summary_aligns_labels_and_decimal_points_under_group_headings():
    lines = summary_lines(
        {"nll_own": Estimate(1.9, 1.8, 2.0), "bleu": Estimate(31.36), "mean_words": Estimate(15.25)}
    )
    assert [line for line in lines if not line.startswith("  ")] == [
        "Does the user's own vector matter?",
        "Are the texts like the references?",
        "How do the texts read?",
    ]
    values = [line for line in lines if line.startswith("  ")]
    assert [line.split("  ")[-1] for line in values][:1] == ["(1.800 to 2.000)"]
    assert len({line.index(".") for line in values}) == 1
    assert "31.36" in values[1]


def _pair(explanation: str) -> ScoredPair:
    return ScoredPair("u1", "i1", "A reference.", explanation, 1.0, 2.0)


def test_examples_are_wrapped_to_100_columns_and_lose_no_word():
    text = " ".join(f"word{number}" for number in range(60))
    lines = example_lines([_pair(text), _pair("Short."), _pair("Left out.")], 2)
    assert max(map(len, lines)) <= 100
    start = lines.index("")
    assert lines[0] == "user u1, item i1"
    assert " ".join(line[13:] for line in lines[1 : start - 1]) == text
    assert lines[start - 1] == "reference    A reference."
    assert lines[-2:] == ["explanation  Short.", "reference    A reference."]


def test_example_that_is_empty_says_so_and_control_characters_do_nothing():
    lines = example_lines([_pair("\x1b[31mred\x07\r\nnext\u202eline"), _pair(" ")], 2)
    assert all(line.isprintable() for line in lines)
    assert any("red" in line and "next" in line for line in lines)
    assert "explanation  (empty)" in lines


def test_coverage_says_how_many_pairs_have_no_text_and_why():
    assert coverage_lines(Coverage(1200, {})) == [
        "All 1,200 held-out pairs of the backfill have a text; none was refused."
    ]
    lines = coverage_lines(Coverage(290, {"empty_text": 1, "names_another_item": 9}))
    assert " ".join(lines) == (
        "Of 300 held-out pairs of the backfill, 10 have no text, which was refused or failed, and "
        "count as empty texts: 9 names_another_item, 1 empty_text."
    )
    assert max(map(len, lines)) <= 100
