"""`xrec explain`: the same text as the backfill's, with its inputs; unknown ids are errors."""

from dataclasses import replace

import pytest

from jobs.explain import lines_of
from tests.world.program import said, xrec
from xrec.backfill import read_explanations
from xrec.config.backfill import BackfillConfig
from xrec.data import read_dataset
from xrec.generate.engine import Failure
from xrec.generate.explainer import Explanation


def test_explain_prints_the_backfills_explanation_with_its_inputs(pipeline, config_file):
    row = read_explanations(pipeline.location("explanations").uri, pipeline.storage).to_pylist()[0]
    dataset = read_dataset(pipeline.location("dataset"))
    user, item = dataset.user_index(row["user_id"]), dataset.item_index(row["item_id"])
    path = config_file(pipeline.config(BackfillConfig))
    out = said("explain", path, "--user", row["user_id"], "--item", row["item_id"])
    assert f"explanation   {row['explanation']}\n" in out
    assert f"{row['num_prompt_tokens']} tokens" in out
    assert f"({row['num_generated_tokens']} tokens, ended by {row['finish_reason']})" in out
    assert row["model_fingerprint"] in out
    assert f": {dataset.items['title'][item].as_py()}. " in out.splitlines()[1]
    assert dataset.users["profile"][user].as_py() in out
    prompt = [
        line.partition("| ")[2] for line in out.splitlines() if line.startswith(" " * 14 + "|")
    ]
    assert prompt[:2] == ["<|im_start|>user", "Why would this user enjoy this place?"]
    assert prompt[2].startswith(f"User: <user {user}> ")
    assert f"<item {item}>" in "\n".join(prompt)
    assert prompt[-2].endswith("<|im_end|>")
    assert prompt[-1] == "<|im_start|>assistant"


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ("resident-1", "nowhere", "item 'nowhere' is not among the 20 items of the dataset"),
        ("nobody", "place-1", "user 'nobody' is not among the 40 users of the dataset"),
    ],
)
def test_explain_unknown_id_exits_1_and_names_it(pipeline, config_file, user, item, message):
    path = config_file(pipeline.config(BackfillConfig))
    code, out, err = xrec("explain", path, "--user", user, "--item", item)
    assert (code, out, message in err) == (1, "", True), err


WRITTEN = Explanation(0, "It is calm.", 9, 4, "stop")
UNSURE = {"refused": "unsupported"}


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "(4 tokens, ended by stop)"),
        (UNSURE, "(a later try: a text was refused as unsupported)"),
        ({**UNSURE, "kind": "plain"}, "(a plain sentence: a text was refused as unsupported)"),
        (
            {"refused": "unsafe", "failure": Failure("abstained", "too little")},
            "failed        abstained: too little",
        ),
    ],
)
def test_explain_says_what_became_of_the_text(changes, last):
    lines = lines_of(replace(WRITTEN, **changes))
    assert lines[0] == "explanation   It is calm."
    assert "a stored text of the pair may differ" in lines[1]
    assert lines[-1].strip() == last
