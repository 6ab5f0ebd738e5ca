"""The artifact of the sample's language model: a Hugging Face model folder and a manifest."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from xrec.config.data import BuildSampleLLMConfig
from xrec.sample.language_model import save_sample_model, train_sample_model
from xrec.storage import (
    Manifest,
    check_access,
    finished,
    location_of,
    write_contents,
    write_manifest,
)

logger = logging.getLogger("xrec")


def build_sample_llm(config: BuildSampleLLMConfig) -> Manifest:
    """Train and write the model and return its manifest.

    If a run with the same settings is finished, nothing is done.
    """
    output = location_of(config, "llm")
    check_access(output, config.storage)
    run_config = llm_settings(config)
    done = finished(output, "llm", run_config, {})
    if done is not None:
        logger.info("%s: already there", output)
        return done
    torch.set_num_threads(config.model.num_threads)
    model, tokenizer, loss = train_sample_model(config.model, config.prompt)
    logger.info("sample language model: loss %.3f nats a token", loss)
    with tempfile.TemporaryDirectory(prefix="xrec-llm-") as folder:
        save_sample_model(model, tokenizer, Path(folder))
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    hashes = write_contents(output, files)
    return write_manifest(
        output, "llm", config=run_config, inputs={}, files=hashes, metrics={"loss": loss}
    )


def llm_settings(config: BuildSampleLLMConfig) -> dict[str, Any]:
    """The settings that the model depends on; it has no inputs."""
    return config.model_dump(mode="json", include={"model", "prompt"})
