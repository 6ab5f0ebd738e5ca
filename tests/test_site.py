"""The site (`make docs`) builds strictly, has every key and name, and loads nothing from others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import xrec
from xrec.config.base import keys_of
from xrec.config.jobs import CONFIG_TYPES


def test_site_has_all_keys_and_public_names_and_loads_nothing_from_other_hosts(tmp_path):
    pytest.importorskip("properdocs", reason="needs the package properdocs, of the extra docs")
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
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
