"""The sample's language model as an artifact: loads from s3://, and a second run does nothing."""

from pathlib import Path
from typing import Any

import pytest

import jobs.build_sample_llm
from xrec.config.data import BuildSampleLLMConfig
from xrec.errors import ArtifactMismatchError
from xrec.llm.model import load_tokenizer
from xrec.llm.source import resolve_model
from xrec.sample import language_model


def test_build_sample_llm_on_s3_resolves_to_a_folder_with_the_same_files(
    pipeline: Any, tmp_path: Path
) -> None:
    folder = resolve_model(f"{pipeline.workspace}/llm", str(tmp_path), pipeline.storage)
    location = pipeline.location("llm")
    assert sorted(path.name for path in folder.iterdir()) == location.files()
    assert all(
        (folder / name).read_bytes() == (location / name).read_bytes() for name in location.files()
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer("The café, late.")["input_ids"]) == "The café, late."


def test_build_sample_llm_learns(pipeline: Any) -> None:
    """From about 6 nats a token (400 tokens, all alike) to far below."""
    assert pipeline.manifests["llm"].metrics["loss"] < 4


def test_build_sample_llm_second_run_trains_nothing_and_another_run_is_refused(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(language_model, "train_sample_model", train)
    config = pipeline.config(BuildSampleLLMConfig)
    assert jobs.build_sample_llm.run(config) == pipeline.manifests["llm"]
    other = config.model_copy(update={"model": config.model.model_copy(update={"seed": 1})})
    with pytest.raises(ArtifactMismatchError, match=r"model\.seed: 0 there, 1 here"):
        jobs.build_sample_llm.run(other)
