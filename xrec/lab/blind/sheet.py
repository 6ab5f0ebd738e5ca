"""The blind sheet: pairs with the entries' texts in random order, the key, and people's answers.

    sheet.html      the page; it needs no network, and saves its answers to a file
    key.json        which text is whose; whoever judges must not see it

A text is known by its pair's number and its place, both from 1. The sheet's fingerprint is that of
all that is on it, and answers name it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xrec.config.entries import BlindSheetConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.data.splits import drawn_pairs
from xrec.errors import ArtifactNotFoundError, DataError, StorageNotFoundError
from xrec.lab.measures.measure import PairIds
from xrec.storage import Location, fingerprint_of, open_location

PROFILE = "profile"
"""The entry that is the item's profile."""
PAGE, KEY = "sheet.html", "key.json"
LOWEST, HIGHEST = 1, 5
# A row a person, text and question.
RATINGS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "judge": pa.string(),
            "user_id": pa.string(),
            "item_id": pa.string(),
            "entry": pa.string(),
            "question": pa.string(),
            "rating": pa.int32(),
        }.items()
    ]
)


@dataclass(frozen=True)
class SheetPair:
    """A pair of the sheet: what a judge sees of it, and whose text stands at which place.

    texts: in the order of the page. entries: in the same order; not on the page.
    """

    user_id: str
    item_id: str
    user_profile: str
    item_title: str
    item_profile: str
    texts: tuple[str, ...]
    entries: tuple[str, ...]


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
    """Draw `config.num_pairs` of the pairs, and the order of the entries' texts of each.

    texts: of each entry, by pair. Where the item's profile takes part as a text of its own, it
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
                entries=tuple(order),
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
    lists = ("texts", "entries")
    pairs = [
        SheetPair(**{**pair, **{name: tuple(pair[name]) for name in lists}})
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


def read_answers(uris: Sequence[str], sheet: Sheet, storage: StorageConfig) -> pa.Table:
    """All ratings in the files, in the schema RATINGS.

    Raises DataError, which names the file and the answer, for answers to another sheet, without a
    judge, to a text or with a rating that is not there, and for a judge with two files.
    """
    rows: list[dict[str, Any]] = []
    judges: dict[str, str] = {}
    for uri in uris:
        saved = _read(uri, storage)
        if saved["sheet"] != sheet.fingerprint:
            raise DataError(
                f"{uri}: answers sheet {saved['sheet']!r}, and the key is of "
                f"{sheet.fingerprint!r}; give answers of this sheet, or the comparison that made "
                "theirs"
            )
        judge = str(saved["judge"] or "").strip()
        if not judge or judge in judges:
            given = f"{judge!r}, who answers in {judges[judge]} too" if judge else "no judge"
            raise DataError(f"{uri}: {given}; give each judge's answers once, under a name")
        judges[judge] = uri
        for number, answer in enumerate(saved["answers"], start=1):
            of_text = _ratings(answer, sheet, f"{uri}, answer {number}")
            rows += [{"judge": judge, **rating} for rating in of_text]
    if not rows:
        raise DataError(f"{', '.join(uris)}: not one answer; fill in the sheet, and save it")
    return pa.Table.from_pylist(rows, RATINGS)


def answered_sheet(uri: str, storage: StorageConfig) -> str:
    """The fingerprint of the sheet that a file answers; raises DataError for another file."""
    return str(_read(uri, storage)["sheet"])


def _read(uri: str, storage: StorageConfig) -> Mapping[str, Any]:
    try:
        saved = json.loads(open_location(uri, storage).read_bytes())
        return {name: saved[name] for name in ("sheet", "judge", "answers")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{uri}: not what the page saves ({type(error).__name__}: {error}); give the files as "
            "they were saved"
        ) from error


def _ratings(answer: Mapping[str, Any], sheet: Sheet, where: str) -> list[dict[str, Any]]:
    """The ratings of one text, one for each question that is answered."""
    given = {name: answer[name] for name in sheet.questions if answer.get(name) not in (None, "")}
    of_pair = sheet.pairs[_number(answer.get("pair"), len(sheet.pairs), "pair", where) - 1]
    place = _number(answer.get("place"), len(of_pair.texts), "place", where)
    about = {
        "user_id": of_pair.user_id,
        "item_id": of_pair.item_id,
        "entry": of_pair.entries[place - 1],
    }
    return [
        {**about, "question": name, "rating": _number(value, HIGHEST, name, where)}
        for name, value in given.items()
    ]


def _number(value: Any, most: int, name: str, where: str) -> int:
    if not isinstance(value, int) or not LOWEST <= value <= most:
        raise DataError(f"{where}: {name} is {value!r}, expected a whole number from 1 to {most}")
    return value
