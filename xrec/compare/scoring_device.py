"""What texts are scored on, which is a part of what their scores are."""

from typing import Literal

from xrec.config.comparison import ComparisonConfig
from xrec.llm.model import resolve_device


def scoring_device(config: ComparisonConfig) -> Literal["cpu", "cuda"]:
    """What texts are scored on: `auto` is a GPU if this process sees one."""
    if config.device != "auto":
        return config.device
    return "cuda" if resolve_device("auto").type == "cuda" else "cpu"
