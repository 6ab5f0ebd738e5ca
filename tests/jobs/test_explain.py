"""`xrec explain`: the same text as the backfill's, with its inputs; unknown ids are errors."""

from pathlib import Path

import pytest

import jobs.explain
from tests.command_line import xrec
from xrec.backfill import read_explanations
from xrec.config.backfill import BackfillConfig
from xrec.data import read_dataset


def _explain(path: Path, user: str, item: str, *more: str) -> tuple[int, str, str]:
    return xrec("explain", path, "--user", user, "--item", item, *more)


def test_explain_prints_the_backfills_explanation_with_its_inputs(pipeline, config_file):
    row = read_explanations(pipeline.location("explanations").uri, pipeline.storage).to_pylist()[0]
    dataset = read_dataset(pipeline.location("dataset"))
    user, item = dataset.user_index(row["user_id"]), dataset.item_index(row["item_id"])
    code, out, err = _explain(
        config_file(pipeline.config(BackfillConfig)), row["user_id"], row["item_id"]
    )
    assert code == 0, err
    assert f"explanation   {row['explanation']}\n" in out
    assert f"{row['num_prompt_tokens']} tokens" in out
    assert f"({row['num_generated_tokens']} tokens, ended by {row['finish_reason']})" in out
    assert row["model_fingerprint"] in out
    assert dataset.items["title"][item].as_py() in out
    assert dataset.users["profile"][user].as_py() in out
    assert f"<user {user}>" in out
    assert f"<item {item}>" in out


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ("resident-1", "nowhere", "item 'nowhere' is not among the 20 items of the dataset"),
        ("nobody", "place-1", "user 'nobody' is not among the 40 users of the dataset"),
    ],
)
def test_explain_unknown_id_exits_1_and_names_it(pipeline, config_file, user, item, message):
    code, out, err = _explain(config_file(pipeline.config(BackfillConfig)), user, item)
    assert (code, out) == (1, "")
    assert message in err


def test_explain_returns_the_prompt_as_the_model_saw_it(pipeline):
    dataset = read_dataset(pipeline.location("dataset"))
    user_id, item_id = dataset.users["user_id"][0].as_py(), dataset.items["item_id"][1].as_py()
    explained = jobs.explain.run(pipeline.config(BackfillConfig), user_id, item_id)
    assert explained.prompt.startswith(
        "<|im_start|>user\nWhy would this user enjoy this place?\nUser: <user 0> "
    )
    assert explained.prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert explained.texts.item_title == dataset.items["title"][1].as_py()
