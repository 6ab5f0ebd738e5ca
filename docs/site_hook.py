"""What the site (`make docs`) has besides the pages of this folder, and the links to it.

- `keys/JOB.md`, a page a job: its help, and each key of its config class.
- `python.md`: the public names of `xrec`, by mkdocstrings.
- The notebook as a page.
- README.md and other pages outside of this folder, and a page for each file that a page links to.
"""

import html
import json
import os.path
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main
from properdocs.structure.files import File, Files

import xrec
from xrec.cli.main import app, lab
from xrec.config import CONFIG_TYPES, Key, meaning, own_and_shared, type_and_default

ROOT = Path(__file__).parents[1]
NOTEBOOK = "docs/reviews_to_reasons.ipynb"
PAGES = {"README.md": "index.md"} | {
    path: path
    for path in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benchmarks/README.md",
        "infra/README.md",
        "infra/RUNBOOK.md",
    )
}
PROSE = {
    "build-sample-llm": "data.md#the-sample",
    "prepare": "data.md",
    "pretrain-graph": "graph.md",
    "train-adapter": "adapter.md",
    "recommend": "graph.md#recommendations",
    "serve": "serving.md",
}  # of any other job the page has the job's name
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    made = {site: (ROOT / path).read_text() for path, site in PAGES.items()}
    written = {_path(file.src_uri): file.content_string for file in files.documentation_pages()}
    written |= {path: made[site] for path, site in PAGES.items()}
    for path in sorted({path for page in written.items() for path in _sources(*page)}):
        made[_site(path)] = _source_page(path)
    made |= {f"keys/{job}.md": _keys_page(job) for job in CONFIG_TYPES}
    made |= {"python.md": _python_page(), _site(NOTEBOOK): _notebook_page()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with its links to files of the repository as links to their pages here."""
    here, path = page.file.src_uri, _path(page.file.src_uri)
    if not (ROOT / path).exists():  # made by `on_files`
        return markdown
    return _LINK.sub(lambda link: _relative(_site(_target(path, link[1])), here), markdown)


def _path(site: str) -> str:
    """The place of a page in the repository."""
    return next((path for path, page in PAGES.items() if page == site), f"docs/{site}")


def _site(path: str) -> str:
    """The page of a file or folder of the repository, or the picture itself."""
    if path.startswith("docs/") and path.endswith((".md", ".svg", ".webp")):
        return path.removeprefix("docs/")
    if path == NOTEBOOK:
        return "reviews_to_reasons.md"
    return PAGES.get(path, f"source/{path}.md")


def _target(path: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), link))


def _relative(site: str, here: str) -> str:
    return os.path.relpath(site, os.path.dirname(here) or ".")


def _sources(path: str, markdown: str) -> Iterator[str]:
    """The files and folders that the page at `path` links to, and the files of these folders."""
    for link in _LINK.findall(markdown):
        target = ROOT / _target(path, link)
        for found in (target, *(target.iterdir() if target.is_dir() else ())):
            name = str(found.relative_to(ROOT))
            if found.exists() and _site(name).startswith("source/"):
                yield name


def _source_page(path: str) -> str:
    there, hidden = ROOT / path, "---\nsearch: {exclude: true}\n---\n"
    if there.is_dir():
        names = sorted(_relative_name(path, each.name) for each in there.iterdir())
        return f"{hidden}# {path}\n\n" + "\n".join(names)
    language = _LANGUAGES.get(there.suffix, "text")
    return f"{hidden}# {path}\n\n~~~~~~{language}\n{there.read_text()}\n~~~~~~\n"


def _relative_name(folder: str, name: str) -> str:
    return f"- [{name}]({_relative(_site(f'{folder}/{name}'), _site(folder))})"


def _keys_page(job: str) -> str:
    """Return the help of a job, and its keys as definitions with an anchor each."""
    own, shared = own_and_shared(job)
    group, words = (lab, "xrec lab") if job == "compare" else (app, "xrec")
    command: Any = typer.main.get_group(group).commands[job]
    help_text = f"{command.help}\n\n{command.epilog}".replace("\b\n", "").strip()
    prose = PROSE.get(job, f"{job}.md")
    return "\n".join(
        [
            f"# {job}: all keys\n",
            f"[About this job](../{prose}). `{words} {job} CONFIG --keys` prints this page.\n",
            f"~~~text\n{help_text}\n~~~\n",
            f"## In the section {job}\n",
            *_definitions(own),
            "## At the top level of the file\n",
            f"Several jobs share these keys. In the section {job} they hold for it alone.\n",
            *_definitions(shared),
        ]
    )


def _definitions(keys: Sequence[Key]) -> Iterator[str]:
    for key in keys:
        if "." not in key.name and any(each.name.startswith(f"{key.name}.") for each in keys):
            yield f"### {key.name}\n\n{_plain(meaning(key))}\n"
        else:
            yield f"`{key.name}`{{ #{key.name} }} {_plain(type_and_default(key))}"
            yield f":   {_plain(meaning(key))}\n"


def _plain(text: str) -> str:
    """The text with everything escaped that Markdown would read."""
    return re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _python_page() -> str:
    names = (f"::: {xrec._MODULES[name]}.{name}\n" for name in xrec.__all__ if name[0] != "_")
    return "# Python\n\nThe names that `import xrec` has.\n\n" + "\n".join(names)


def _notebook_page() -> str:
    cells = json.loads((ROOT / NOTEBOOK).read_text())["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    link = f"\n\nThis page is the notebook `{NOTEBOOK}`."
    return "\n\n".join(f"~~~python\n{text}\n~~~" if code else text for text, code in texts) + link
