"""An export of a toy run, and what is in its folder."""

from pathlib import Path
from typing import Any

from tests.xrec.bulk.toy_run import Toy, toy_run
from tests.xrec.table.conftest import Place
from xrec.bulk import Exported, export_run
from xrec.bulk.export_folder import RECORD, SUCCESS
from xrec.config.export import ExportConfig
from xrec.storage import Location, open_location

ODD_ITEMS = ["a", 'says "no", or\nnot; é🙂', "comma, and\ttab", "odd-1"]


def finished(place: Place, folder: Path, items: list[str] = ODD_ITEMS, **sizes: int) -> Toy:
    """A run that is finished; the rows of items `odd...` failed."""
    toy = toy_run(place, folder, items, **sizes)
    assert toy.drive().state == "finished"
    return toy


def export(place: Place, **settings: Any) -> Exported:
    """Export the run at `place` into the folder beside it."""
    version = settings.pop("version", None)
    settings = {"uri": f"{place.uri} export", "overwrite": False, **settings}
    return export_run(place.uri, ExportConfig(**settings), version=version, storage=place.storage)


def target_of(place: Place) -> Location:
    """The folder that `export` writes to."""
    return open_location(f"{place.uri} export", place.storage)


def files_of(place: Place) -> dict[str, bytes]:
    """The data files of the export, with their content."""
    target = target_of(place)
    return {
        name: (target / name).read_bytes()
        for name in target.files()
        if name not in (RECORD, SUCCESS)
    }
