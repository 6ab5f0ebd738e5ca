"""What `xrec explain` prints of a pair."""

from dataclasses import replace

import pytest

from jobs.explain import ExplainedPair
from xrec.cli.explain_command import _lines
from xrec.generate.engine import Failure
from xrec.generate.explainer import Explanation
from xrec.llm.prompt import PairTexts

WRITTEN = Explanation(0, "It is calm.", 9, 4, "stop")


@pytest.mark.parametrize(
    ("explanation", "last"),
    [
        (WRITTEN, "              (4 tokens, ended by stop)"),
        (
            replace(WRITTEN, refused="unsupported"),
            "              (the second try: a text was refused as unsupported)",
        ),
        (
            replace(WRITTEN, refused="unsupported", kind="plain"),
            "              (a plain sentence: a text was refused as unsupported)",
        ),
        (
            replace(WRITTEN, refused="unsafe", failure=Failure("abstained", "too little")),
            "failed        abstained: too little",
        ),
    ],
)
def test_explain_says_what_became_of_the_text(explanation, last):
    pair = ExplainedPair("u", "i", PairTexts("", "Café 21", ""), "Why?", explanation, "f" * 16)
    lines = _lines(pair)
    assert lines[-1] == last
    assert "explanation   It is calm." in lines
    assert any("a stored text of the pair may differ" in line for line in lines)
