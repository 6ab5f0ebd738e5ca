"""A reason by what people did as a sentence, without a language model."""

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from xrec.neighbors.reasons import Kind


class Words(NamedTuple):
    """What people do with items, such as ("bought", "bought") or ("chose", "chosen")."""

    chose: str = "chose"
    chosen: str = "chosen"


CHOSE = Words()


@cache
def frames() -> dict[str, tuple[str, ...]]:
    """Return the templates of each kind of reason."""
    lines = resources.files("xrec.neighbors").joinpath("sentences.txt").read_text().splitlines()
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return {kind: tuple(text for name, text in pairs if name == kind) for kind, _ in pairs}


def sentence(
    kind: Kind, ids: tuple[str, str], support: str, at_least: int, words: Words = CHOSE
) -> str:
    """Return the sentence of a reason for the pair `ids`.

    support: the title of the supporting item, or what to call it. The same pair gets the same
    template on every night.
    """
    digest = hashlib.md5("\0".join((kind, *ids)).encode(), usedforsecurity=False).digest()
    templates = frames()[kind]
    template = templates[int.from_bytes(digest[:4], "little") % len(templates)]
    text = template.format(**words._asdict(), support=support, number=f"{at_least:,}")
    return text[0].upper() + text[1:]
