"""What all pages of the documentation keep to: devices, links, lines, promises with tests."""

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PAGES = [
    *sorted(_ROOT.glob("*.md")),
    *(
        page
        for name in ("docs", "benchmarks", "infra")
        for page in sorted(_ROOT.glob(f"{name}/*.md"))
    ),
]
_each_page = pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))


@_each_page
def test_prompts_are_made_on_the_models_device(page):
    prompts = re.findall(r"torch\.tensor\(\[prompt\][^)]*\)", page.read_text())
    assert all("device=model.device" in prompt for prompt in prompts), prompts


@_each_page
def test_links_lead_to_files_and_headings(page):
    broken = []
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken, broken


def _anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@_each_page
def test_lines_of_prose_have_at_most_100_characters(page):
    long = [
        line
        for line in page.read_text().splitlines()
        if len(line) > 100 and not line.lstrip().startswith(("|", "#"))
    ]
    assert not long, long


def test_each_promise_has_a_test_that_is_there():
    """Compare the rows of docs/guarantees.md with the promises of README.md and SECURITY.md."""
    rows = re.findall(
        r"^\| (?!promise )([^|]+) \|([^|]+)\|$", _text("docs/guarantees.md"), re.MULTILINE
    )
    assert rows
    for promise, held_by in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", held_by)
        assert re.sub(r"`tests/[^`]+`|[ ,]", "", held_by) == ""
        assert tests, promise
        for path, name in tests:
            assert name in _functions(path), f"{promise}: {path}::{name}"
    named = {title for promise, _ in rows for title in re.findall(r"\*\*(.+?)\*\*", promise)}
    promised = {"Two commands", "Your own data, in two commands", "Limits"}
    for page, heading in (("README.md", "What it guarantees"), ("SECURITY.md", "What is promised")):
        section = _text(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]
        bullets = re.findall(r"^- (.*)$", section, re.MULTILINE)
        titles = [re.match(r"\*\*(.+?)\.?\*\*", bullet) for bullet in bullets]
        assert all(titles), f"{page}: each promise begins with its name in bold"
        promised |= {title[1] for title in titles if title}
    assert named == promised


def _text(path: str) -> str:
    return (_ROOT / path).read_text(encoding="utf-8")


def _functions(path: str) -> set[str]:
    return {node.name for node in ast.parse(_text(path)).body if isinstance(node, ast.FunctionDef)}
