"""Settings of comparisons on Ray that take seconds; the language model has random weights."""

from typing import Any

from tests.xrec.train.adapter_town import PROMPT, TRAINING

COMPARISON: dict[str, Any] = {
    "prompt": PROMPT,
    "budget": {"max_pairs": 64, "num_epochs": 1},
    "max_pairs": 12,
    "model": {"num_experts": 2},
    "training": {**TRAINING, "max_validation_pairs": 4},
    "scaling": {"num_workers": 1, "device": "cpu", "max_failures": 0},
    "actors": {"num_actors": 1, "device": "cpu"},
    "metrics": {"encoder": None},
    "bootstrap_samples": 100,
    "num_examples": 2,
    "device": "cpu",
}


def values_of(town: str, own: dict[str, Any], **values: Any) -> dict[str, Any]:
    """All keys of a comparison in the workspace `town`; those that come later count."""
    llm = {"model": f"{town}/llm", "dtype": "float32"}
    return {"workspace": town, "llm": llm, **COMPARISON, **own, **values}
