"""The site (`make docs`): it builds strictly, has every key, and loads nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import xrec
from xrec.config.base import keys_of
from xrec.config.jobs import CONFIG_TYPES

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("properdocs", reason="needs the package properdocs, of the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_site_has_a_page_a_job_with_all_its_keys_and_a_page_of_the_public_names(site):
    for job, config_type in CONFIG_TYPES.items():
        page = (site / "keys" / f"{job}.html").read_text()
        missing = [key.name for key in keys_of(config_type) if f'id="{key.name}"' not in page]
        assert not missing, (job, missing)
    names = [name for name in xrec.__all__ if name != "__version__"]
    page = (site / "python.html").read_text()
    assert all(re.search(rf'id="xrec\.[\w.]*{name}"', page) for name in names)


def test_site_loads_nothing_from_other_hosts(site):
    loaded = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]+')
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(CONFIG_TYPES)
    assert [found for page in pages for found in loaded.findall(page.read_text())] == []
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert not any(re.search(r"@import|url\(.?(?:https?:)?//", style) for style in styles)
