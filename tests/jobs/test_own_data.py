"""Two commands for a team's own CSV files: `xrec init`, then `xrec run` to explanations."""

import csv
import re
from pathlib import Path

import pytest
import torch

from tests.world.program import python
from tests.world.shop import write_shop
from xrec.backfill import read_explanations
from xrec.sample.language_model import build_model, train_tokenizer
from xrec.storage import open_location, read_manifest

_NUM_PAIRS = 20
_TRAINING = (
    "scaling.num_workers=1",
    "pretrain-graph.training.num_epochs=1",
    "train-adapter.training.max_steps=2",
    "recommend.k=1",
    f"backfill.pairs.max_pairs={_NUM_PAIRS}",
    "evaluate.encoder=null",
)
# A toy model writes no sentences, so its texts are not checked.
_TEXTS = (
    "llm.dtype=float32",
    "decoding.max_new_tokens=4",
    "decoding.text={max_words: null, refuses_repetition: false}",
    "backfill.max_failed_share=1",
    "backfill.gate=null",
    "backfill.actors.num_actors=1",
)


def _xrec(*arguments: object) -> str:
    done = python("-m", "xrec.cli", *arguments, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _save_llm(folder: Path, feedback: Path) -> None:
    """A toy model that says words and nothing else: every other token has the score zero.

    Its tokenizer knows the words of the explanations, which then fit the budget that init chose.
    """
    texts = [row["why_bought"] for row in csv.DictReader(feedback.open(newline=""))]
    tokenizer = train_tokenizer(texts, 600)
    torch.manual_seed(0)
    model = build_model(tokenizer, hidden_size=32, num_layers=1)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    is_word = torch.tensor([re.fullmatch("\u0120[a-z]{3,}", token) is not None for token in tokens])
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokens), 32) * is_word[:, None])
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_init_and_run_turn_csv_files_of_other_names_into_explanations(tmp_path):
    """The model is a toy, given on the command line; no file is edited."""
    write_shop(tmp_path / "export")
    _save_llm(tmp_path / "llm", tmp_path / "export" / "feedback.csv")
    project = tmp_path / "project" / "xrec.yaml"
    found = _xrec("init", tmp_path / "project", "--from", tmp_path / "export")
    assert "60 users, 24 items, 480 interactions, 240 explanations" in found
    assert f"next: xrec run {project}" in found
    model = (f"llm.model={tmp_path / 'llm'}", *_TEXTS)
    _xrec("run", project, *model, *_TRAINING)
    workspace = open_location(str(tmp_path / "project" / "workspace"))
    explained = read_explanations((workspace / "explanations").uri)
    assert explained.num_rows == 20
    users = {f"resident-{n}" for n in range(1, 61)}
    assert set(explained["user_id"].to_pylist()) <= users
    assert read_manifest(workspace / "evaluation", "evaluation").metrics

    recommended = ("pairs={kind: recommendations}", "explanations=workspace:top")
    _xrec("backfill", project, *recommended, *model)
    assert set(read_explanations((workspace / "top").uri)["user_id"].to_pylist()) == users
