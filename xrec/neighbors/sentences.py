"""What people did, as a sentence, without a language model."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from xrec.config import PeopleWords
from xrec.data import Dataset, PeopleEvidence
from xrec.storage import fingerprint_of

_FILE = resources.files("xrec.neighbors").joinpath("sentences.txt")


def sentences_fingerprint() -> str:
    """Return the fingerprint of all templates."""
    return fingerprint_of([_FILE.read_text()])


@cache
def frames() -> dict[str, tuple[str, ...]]:
    """Return the templates of each kind of reason."""
    lines = _FILE.read_text().splitlines()
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return {kind: tuple(text for name, text in pairs if name == kind) for kind, _ in pairs}


def support_name(item_id: str, title: str) -> str:
    """Return what a sentence calls a supporting item."""
    return title.strip() or f"item {item_id}"


def people_evidence(
    dataset: Dataset, row: Mapping[str, Any], words: PeopleWords
) -> PeopleEvidence | None:
    """Return the evidence in a row's ids and columns SUPPORT; None if there is none.

    The same pair gets the same template on every night.
    """
    kind, item_id = row["evidence_kind"], row["evidence_item_id"] or ""
    item = dataset.item_ids.find(item_id) if item_id else None
    if kind not in frames() or (item_id and item is None):
        return None
    title = "" if item is None else str(dataset.items["title"][item].as_py())
    name = support_name(item_id, title) if item_id else row["evidence_category"] or ""
    at_least = row["evidence_at_least"] or 0
    ids = "\0".join((kind, row["user_id"], row["item_id"])).encode()
    digest = hashlib.md5(ids, usedforsecurity=False).digest()
    template = frames()[kind][int.from_bytes(digest[:4], "little") % len(frames()[kind])]
    this = words.this[0].upper() + words.this[1:]
    values = {**words.model_dump(), "This": this, "support": name, "number": f"{at_least:,}"}
    return PeopleEvidence(kind, item_id, name, at_least, template.format(**values))
