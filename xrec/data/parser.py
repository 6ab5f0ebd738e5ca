"""The English parser: tags, lemmas and dependencies of texts, by a pipeline of spaCy.

The default is spaCy's small English pipeline, from a package whose files are loaded by their path:
none of its code runs.
"""

import functools
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xrec.config.data import DEFAULT_PARSER
from xrec.errors import ModelError
from xrec.storage.packages import PYPI, package_files

_MOST_CHARACTERS = 20_000  # of a text; what is behind is not read
_JOINED = re.compile(r"(?<=[a-z])(\.{2,}|[,;!?]|\.(?=[A-Z]))(?=[A-Za-z])")  # a fit..price is good
_NEEDS = ("tagger", "parser", "lemmatizer")
_PACKED = ("LEMMA", "TAG", "POS", "DEP", "HEAD")


def parse(texts: Iterable[str], source: str) -> Iterator[Any]:
    """The spaCy Doc of each text, in order. Raises ModelError as `load_parser` does."""
    cut = (text[:_MOST_CHARACTERS] for text in texts)
    spaced = (_JOINED.sub(lambda mark: f"{mark[0][0]} ", text) for text in cut)
    docs: Iterator[Any] = load_parser(source).pipe(spaced)
    return docs


def pack(doc: Any) -> bytes:
    """The words of a Doc with their tags, lemmas and dependencies, compressed."""
    from spacy.tokens import DocBin

    return bytes(DocBin(attrs=_PACKED, docs=[doc]).to_bytes())


def unpack(data: bytes, source: str) -> Any:
    """The Doc of `pack`, thirty times as fast as to parse it again."""
    from spacy.tokens import DocBin

    return next(DocBin().from_bytes(data).get_docs(load_parser(source).vocab))


@functools.cache
def load_parser(source: str) -> Any:
    """The pipeline `source`: `pypi:<package>`, the name of an installed spaCy package, or a folder.

    Raises ModelError if it cannot be loaded, or does not tag, parse and lemmatize.
    """
    import spacy  # takes a second, and only the annotator without a language model needs it

    try:
        pipeline = spacy.load(_folder(source), exclude=["ner", "senter"])
    except (ModelError, OSError, ValueError) as error:
        raise _cannot_be_loaded(source, error) from error
    missing = [name for name in _NEEDS if name not in pipeline.pipe_names]
    if missing:
        raise ModelError(
            f"parser {source!r} has no {', '.join(missing)}; expected a pipeline such as "
            f"en_core_web_sm, saw {', '.join(pipeline.pipe_names)}"
        )
    return pipeline


def parser_fingerprint(source: str) -> str:
    """What texts depend on: the pipeline's name and version, without loading it, which takes long.

    Raises ModelError if it is not there.
    """
    try:
        folder = Path(_folder(source))
        if not folder.is_dir() and (package := importlib.util.find_spec(source)) is not None:
            folder = Path(next(iter(package.submodule_search_locations or [])))
        meta = json.loads((folder / "meta.json").read_bytes())
    except (ModelError, ImportError, OSError, StopIteration, ValueError) as error:
        raise _cannot_be_loaded(source, error) from error
    return f"{meta['lang']}_{meta['name']}-{meta['version']}"


def _cannot_be_loaded(source: str, error: Exception) -> ModelError:
    return ModelError(
        f"parser {source!r} cannot be loaded: {error}; give the name of an installed spaCy "
        "pipeline (python -m spacy download en_core_web_sm), a folder, or "
        f"{DEFAULT_PARSER}, which `make setup` installs"
    )


def _folder(source: str) -> str | Path:
    if not source.startswith(PYPI):
        return source
    configs = package_files(source.removeprefix(PYPI), "config.cfg")
    if not configs:
        raise OSError("the package holds no pipeline (config.cfg)")
    return configs[0].parent
