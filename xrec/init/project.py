"""All of `xrec init`: look, find, count, choose, write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xrec.config.data import TablesSource
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError
from xrec.init.files import Folder, read_folder
from xrec.init.guess import Guess, guess_tables
from xrec.init.project_file import project_text
from xrec.init.reviews import FoundReviews, find_reviews
from xrec.init.settings import Machine, choose_settings, this_machine
from xrec.init.survey import Survey, survey, survey_reviews
from xrec.storage import check_access, open_location

PROJECT_FILE = "xrec.yaml"


@dataclass(frozen=True)
class Findings:
    """What was found, and the URI of the project file that was written.

    reviews: if texts are to be written from them; dropped: how many reviews, by reason.
    """

    folder: Folder
    guess: Guess
    survey: Survey
    machine: Machine
    project_file: str
    reviews: FoundReviews | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


def init_project(
    directory: str, source_uri: str, *, force: bool = False, machine: Machine | None = None
) -> Findings:
    """Write `directory`/xrec.yaml for the files at `source_uri`, unless anything is wrong.

    Raises ConfigError (a project file is there, and `force` is not given), DataError or
    StorageError (the files are missing, cannot be read, or have no ids of users and items).
    """
    target = open_location(directory) / PROJECT_FILE
    if open_location(directory).is_file():
        raise ConfigError(f"{directory} is a file; give a folder for the project file")
    if target.exists() and not force:
        raise ConfigError(
            f"{target} is there already; give another folder, or --force to replace it"
        )
    location = open_location(source_uri)
    check_access(location, StorageConfig())
    folder = read_folder(location)
    guess = guess_tables(folder.files)
    reviews = find_reviews(folder, guess)
    source = _tables_source(folder, guess)
    dropped: Mapping[str, int] = {}
    if reviews is None:
        counts = survey(folder, source)
    else:
        counts, dropped = survey_reviews(folder, reviews.settings())
    machine = machine or this_machine()
    text = project_text(
        reviews or source,
        f"{open_location(directory).shared_uri.rstrip('/')}/workspace",
        survey=counts,
        settings=choose_settings(counts, machine),
    )
    target.write_bytes(text.encode("utf-8"))
    return Findings(folder, guess, counts, machine, str(target), reviews, dropped)


def _tables_source(folder: Folder, guess: Guess) -> TablesSource:
    uri = folder.location.shared_uri
    values: dict[str, Any] = {
        "kind": "tables",
        "uri": uri.rpartition("/")[0] if folder.location.is_file() else uri,
        "files": dict(guess.files),
        "columns": guess.settings(),
        "delimiter": folder.delimiter,
    }
    return TablesSource.model_validate(values)


def file_rows(findings: Findings) -> list[list[str]]:
    """A row for each file: its name, its rows, the tables it holds, and the columns taken."""
    found, rows = findings.reviews or findings.guess, []
    for file in findings.folder.files:
        tables = [table for table, name in found.files.items() if name == file.name]
        taken = {
            column: names
            for table in tables
            for column, names in found.columns[table].items()
            if names is not None
        }
        shown = ", ".join(f"{column} = {_shown(names)}" for column, names in taken.items())
        rows.append([file.name, str(file.num_rows), " and ".join(tables) or "not used", shown])
    return rows


def missing_lines(findings: Findings) -> list[str]:
    """What is missing, and what that means; one line each."""
    counts, dropped = findings.survey, findings.dropped
    lines = _missing_tables(findings)
    if not counts.can_train_adapter:
        lines.append(
            f"{sum(counts.num_explanations.values()) or 'no'} explanations: an adapter cannot be "
            "trained, so the project has no job that writes texts"
        )
    lines += [f"{num} reviews dropped: {reason}" for reason, num in dropped.items()]
    return lines + [f"{num} rows left out, {why}" for why, num in counts.rejected.items()]


def _missing_tables(findings: Findings) -> list[str]:
    reviews, tables = findings.reviews, findings.guess.files
    if reviews is not None:
        made = "no table of items: titles are made from what the reviews call them"
        return [] if "items" in reviews.columns else [made]
    lines = []
    if "users" not in tables:
        lines.append("no table of users: profiles are empty, so texts cannot speak of the user")
    if "items" not in tables:
        lines.append("no table of items: texts cannot name or describe the item")
    return lines


def _shown(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else " + ".join(names)
