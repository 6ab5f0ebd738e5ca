"""The pages: links, promises with their tests, the site, and the notebook."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xrec
from tests.errors import messages
from tests.world.program import python
from xrec.config import CONFIG_TYPES, keys_of

ROOT = Path(__file__).parents[1]
PAGES = {
    page: page.read_text()
    for name in (".", "docs", "docs/tutorials", "benchmarks", "infra")
    for page in sorted(ROOT.glob(f"{name}/*.md"))
}


def test_links_lead_to_files_and_headings():
    broken = []
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_symptoms_of_the_troubleshooting_page_are_messages_of_xrec():
    """A symptom in backquotes is part of an error, of a log line, or a reason of a failed row."""
    sources = "".join(path.read_text() for path in sorted((ROOT / "xrec").rglob("*.py")))
    known = messages() + re.sub(r'"\s*\n\s*f?"', "", sources)  # literals over several lines as one
    page = PAGES[ROOT / "docs" / "troubleshooting.md"]
    cells = re.findall(r"^\| (?!you see|--)(.*?) \|", page, re.MULTILINE)
    symptoms = [each for cell in cells for each in re.findall(r"`([^`]+)`", cell)]
    assert len(symptoms) > 40
    ours = [each for each in symptoms if not each.startswith(("/", "xrec ", "*"))]
    assert [each for each in ours if each not in known] == []


def test_chart_of_faults_has_the_figures_of_the_table():
    chart = json.loads((ROOT / "docs" / "images" / "faults.json").read_text())
    page = PAGES[ROOT / "docs" / "findings.md"].split("- **Faults**")[1]
    cells = re.findall(r"\| ([\d,]+), ([\d,]+)", page)
    table = [[int(number.replace(",", "")) for number in cell] for cell in cells]
    assert table == [cell for row in chart["lost_and_duplicated"].values() for cell in row]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_promise_has_a_test_that_exists():
    """Compare the rows of docs/guarantees.md with the promises of README.md and SECURITY.md."""
    row = r"^\| (?!promise )([^|]+) \|([^|]+)\|$"
    rows = re.findall(row, PAGES[ROOT / "docs" / "guarantees.md"], re.MULTILINE)
    assert rows
    for promise, held_by in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", held_by)
        assert re.sub(r"`tests/[^`]+`|[ ,]", "", held_by) == ""
        assert tests, promise
        for path, name in tests:
            assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{promise}: {path}::{name}"
    named = {title for promise, _ in rows for title in re.findall(r"\*\*(.+?)\*\*", promise)}
    promised = {"Two commands", "Your own data, in two commands", "Limits"}
    for page, heading in (("README.md", "What it guarantees"), ("SECURITY.md", "What is promised")):
        section = PAGES[ROOT / page].split(f"\n## {heading}\n")[1].split("\n## ")[0]
        bullets = re.findall(r"^- (.*)$", section, re.MULTILINE)
        titles = [re.match(r"\*\*(.+?)\.?\*\*", bullet) for bullet in bullets]
        assert all(titles), f"{page}: each promise begins with its name in bold"
        promised |= {title[1] for title in titles if title}
    assert named == promised


def test_site_has_all_keys_and_public_names_and_loads_nothing_from_other_hosts(tmp_path):
    pytest.importorskip("properdocs", reason="needs the package properdocs, of the extra docs")
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(tmp_path)): page.read_text() for page in tmp_path.rglob("*.html")}
    for job, config_type in CONFIG_TYPES.items():
        ids = re.findall(r'id="([^"]+)"', pages[f"keys/{job}.html"])
        assert {key.name for key in keys_of(config_type)} <= set(ids)
    names = [name for name in xrec.__all__ if name != "__version__"]
    assert all(re.search(rf'id="xrec\.[\w.]*{name}"', pages["python.html"]) for name in names)
    styles = {style.name: style.read_text() for style in tmp_path.rglob("*.css")}
    loaded = r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//|@import|url\(.?http'
    assert [name for name, text in (pages | styles).items() if re.search(loaded, text)] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_notebook_runs_from_reviews_to_reasons(tmp_path):
    notebook = json.loads((ROOT / "docs" / "reviews_to_reasons.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells))
    done = python(script, cwd=tmp_path, timeout=1700, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    *_, texts = parts = done.stdout.split("reviews of the place")
    assert len(parts) > 3  # at least one reason of each of three pairs
    assert sum(line.startswith("resident-") for line in texts.splitlines()) >= 3
