"""Metrics for actors that run in another folder."""

from pathlib import Path

import pytest

from xrec.config.metrics import MetricsConfig
from xrec.config.shared import StorageConfig
from xrec.lab.measures import metrics_anywhere

ENDPOINT = {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m"}


def test_metrics_anywhere_name_the_same_models_and_prompts_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = MetricsConfig.model_validate(
        {
            "encoder": {"source": "models/small"},
            "bleurt": {"source": "Elron/bleurt-base-512"},
            "judges": [
                {"name": "near", "model": {"kind": "engine", "llm": {"model": "models/small"}}},
                {"name": "far", "model": ENDPOINT, "prompt": "score.txt"},
            ],
        }
    )
    there = metrics_anywhere(config, StorageConfig()).model_dump(mode="json")
    folder = str(tmp_path / "models" / "small")
    assert there["encoder"]["source"] == folder
    assert there["bleurt"]["source"] == "Elron/bleurt-base-512"
    assert there["judges"][0]["model"]["llm"]["model"] == folder
    assert Path(there["judges"][1]["prompt"]) == tmp_path / "score.txt"
    assert there["judges"][1]["support_prompt"] is None
