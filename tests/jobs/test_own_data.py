"""Two commands for a team's own CSV files: `xrec init`, then `xrec run` to explanations."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.xrec.init.shop import write_shop
from xrec.backfill import read_explanations
from xrec.config.data import SampleLLMConfig
from xrec.sample.language_model import build_model, save_sample_model, train_tokenizer
from xrec.storage import open_location, read_manifest

_SMALL = (
    "train-adapter.training.max_steps=2",
    "pretrain-graph.training.num_epochs=1",
    "backfill.pairs.max_pairs=20",
    "backfill.max_failed_share=1",
    "decoding.max_new_tokens=4",
    # A toy model writes no sentences, so its texts are not checked.
    "decoding.text={max_words: null, max_phrase_repeats: null, max_echo_tokens: null}",
    "evaluate.encoder=null",
)


def _xrec(*arguments: object) -> str:
    command = [sys.executable, "-m", "xrec.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _save_llm(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    tokenizer = train_tokenizer(["A quiet place with a garden for a guest."], 300)
    config = SampleLLMConfig(hidden_size=32, num_layers=1, num_heads=2, num_key_value_heads=1)
    save_sample_model(build_model(config, tokenizer), tokenizer, folder)


@pytest.mark.slow
def test_init_and_run_turn_csv_files_of_other_names_into_explanations(tmp_path: Path) -> None:
    """The model is a toy, given on the command line; no file is edited."""
    write_shop(tmp_path / "export")
    _save_llm(tmp_path / "llm")
    project = tmp_path / "project" / "xrec.yaml"
    found = _xrec("init", tmp_path / "project", "--from", tmp_path / "export")
    assert "60 users, 24 items, 480 interactions, 240 explanations" in found
    assert f"next: xrec run {project}" in found
    _xrec("run", project, f"llm.model={tmp_path / 'llm'}", "llm.dtype=float32", *_SMALL)
    workspace = open_location(str(tmp_path / "project" / "workspace"))
    explained = read_explanations(workspace / "explanations")
    assert explained.num_rows == 20
    assert set(explained["user_id"].to_pylist()) <= {f"resident-{n}" for n in range(1, 61)}
    assert read_manifest(workspace / "evaluation", "evaluation").metrics
