"""The blind sheet: pairs with the contestants' texts in random order, and the key, kept apart.

    sheet.html      the page; it needs no network, and saves its answers to a file
    key.json        which text is whose; whoever judges must not see it

A text is known by its pair's number and its place, both from 1. The sheet's fingerprint is that of
all that is on it, and answers name it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xrec.config.contestants import BlindSheetConfig
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.data.splits import drawn_pairs
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.lab.measures.contestant_texts import PairIds
from xrec.storage import Location, fingerprint_of

PROFILE = "profile"
"""The contestant that is the item's profile."""
PAGE, KEY = "sheet.html", "key.json"
LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True)
class SheetPair:
    """A pair of the sheet: what a judge sees of it, and whose text stands at which place.

    texts: in the order of the page. contestants: in the same order; not on the page.
    """

    user_id: str
    item_id: str
    user_profile: str
    item_title: str
    item_profile: str
    texts: tuple[str, ...]
    contestants: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """The pairs in the order of the page, and the questions by their short names."""

    pairs: tuple[SheetPair, ...]
    questions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """That of pairs, texts, order and questions."""
        return fingerprint_of([[asdict(pair) for pair in self.pairs], dict(self.questions)])


def make_sheet(
    config: BlindSheetConfig,
    dataset: Dataset,
    pairs: Sequence[HeldOutPair],
    texts: Mapping[str, Mapping[PairIds, str | None]],
    *,
    seed: int,
) -> Sheet:
    """Draw `config.num_pairs` of the pairs, and the order of the contestants' texts of each.

    texts: of each contestant, by pair. Where the item's profile takes part as a text of its own, it
        does not stand above the texts: it would say whose that one is.
    """
    rng = np.random.default_rng(seed)
    drawn = drawn_pairs(pairs, config.num_pairs, seed=seed)
    profiles, items = dataset.users["profile"].combine_chunks(), dataset.items
    titles, about = items["title"].combine_chunks(), items["profile"].combine_chunks()
    names = list(texts)
    sheet = []
    for place in rng.permutation(len(drawn)):
        pair = drawn[place]
        ids = (pair.user_id, pair.item_id)
        order = [names[each] for each in rng.permutation(len(names))]
        sheet.append(
            SheetPair(
                *ids,
                user_profile=profiles[pair.user_index].as_py(),
                item_title=titles[pair.item_index].as_py(),
                item_profile="" if PROFILE in texts else about[pair.item_index].as_py(),
                texts=tuple(texts[name].get(ids) or "" for name in order),
                contestants=tuple(order),
            )
        )
    return Sheet(tuple(sheet), dict(config.questions))


def write_sheet(location: Location, sheet: Sheet) -> None:
    """Write page and key into the folder; the same sheet gives the same files."""
    key = {"sheet": sheet.fingerprint, "questions": dict(sheet.questions)}
    pairs = [asdict(pair) for pair in sheet.pairs]
    text = json.dumps({**key, "pairs": pairs}, indent=1, ensure_ascii=False) + "\n"
    (location / KEY).write_bytes(text.encode())
    (location / PAGE).write_bytes(page_of(sheet).encode())


def read_sheet(location: Location) -> Sheet:
    """The sheet, by its key; raises ArtifactNotFoundError if there is none."""
    try:
        key = json.loads((location / KEY).read_text())
    except StorageNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{location / KEY}: there is no key, so answers cannot be read; make the sheet first: "
            "xrec lab compare CONFIG blind_sheet.num_pairs=N"
        ) from error
    pairs = [
        SheetPair(
            **{
                **pair,
                "texts": tuple(pair["texts"]),
                "contestants": tuple(pair["contestants"]),
            }
        )
        for pair in key["pairs"]
    ]
    return Sheet(tuple(pairs), key["questions"])


def page_of(sheet: Sheet) -> str:
    """The page, self-contained; it says nothing of whose the texts are."""
    environment = Environment(
        loader=PackageLoader("xrec.lab.blind", "page_files"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page_files = files("xrec.lab.blind") / "page_files"
    return environment.get_template("sheet.html").render(
        style=Markup((page_files / "sheet.css").read_text("utf-8")),
        script=Markup((page_files / "sheet.js").read_text("utf-8")),
        sheet=sheet.fingerprint,
        questions=sheet.questions,
        pairs=sheet.pairs,
        ratings=range(LOWEST, HIGHEST + 1),
    )
