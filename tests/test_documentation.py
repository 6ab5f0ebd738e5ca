"""What the documentation's Python code does with devices."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_prompts_are_made_on_the_models_device(page: Path) -> None:
    prompts = re.findall(r"torch\.tensor\(\[prompt\][^)]*\)", page.read_text())
    assert all("device=model.device" in prompt for prompt in prompts), prompts
