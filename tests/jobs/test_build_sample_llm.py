"""The sample's language model as an artifact: it has learned, and loads from s3://."""

from pathlib import Path
from typing import Any

from xrec.llm.model import load_tokenizer
from xrec.llm.source import resolve_model


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
