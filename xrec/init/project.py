"""All of `xrec init`: look, find, count, choose, write."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from xrec.config import TABLE_COLUMNS, StorageConfig, TablesSource
from xrec.errors import ConfigError, DataError
from xrec.init.files import Folder, read_folder
from xrec.init.guess import ColumnNames, Guess, differing_names, guess_tables, seen_columns
from xrec.init.project_file import Annotator, project_text
from xrec.init.reviews import FoundReviews, find_reviews
from xrec.init.settings import Machine, choose_settings, this_machine
from xrec.init.survey import Survey, survey, survey_reviews
from xrec.storage import check_access, open_location

PROJECT_FILE = "xrec.yaml"


@dataclass(frozen=True)
class Findings:
    """What was found, and the URI of the project file that was written.

    reviews: if texts are to be written from them.
    """

    folder: Folder
    guess: Guess
    survey: Survey
    machine: Machine
    project_file: str
    reviews: FoundReviews | None = None


def init_project(
    directory: str,
    source_uri: str,
    *,
    columns: Mapping[str, str] | None = None,
    annotator: Annotator = "phrases",
    force: bool = False,
    machine: Machine | None = None,
) -> Findings:
    """Write `directory`/xrec.yaml for the files at `source_uri`, unless anything is wrong.

    columns: ours by the files' own, as far as the user says it. annotator: who is to write texts
    from reviews; the other one stands there as a comment.

    Raises ConfigError (a project file is there, and `force` is not given), DataError or
    StorageError (the files are missing, cannot be read, or have no ids of users and items).
    """
    target = open_location(directory) / PROJECT_FILE
    if open_location(directory).is_file():
        raise ConfigError(
            f"{directory} is a file; give a folder for the project file",
            code="not_a_folder",
            saw=directory,
        )
    if target.exists() and not force:
        raise ConfigError(
            f"{target} is there already; give another folder, or --force to replace it",
            code="file_exists",
            key="--force",
            saw=str(target),
        )
    location = open_location(source_uri)
    check_access(location, StorageConfig())
    folder = read_folder(location, columns)
    guess = guess_tables(folder.files)
    reviews = find_reviews(folder, guess)
    _check_given(columns or {}, folder, (reviews or guess).columns)
    renamed = differing_names(guess.columns, TABLE_COLUMNS)
    tables = {"kind": "tables", "files": dict(guess.files), "columns": renamed}
    if location.is_file():
        tables["uri"] = location.uri.rpartition("/")[0]
    source = TablesSource.model_validate({**folder.settings(), **tables})
    if reviews is not None:
        counts = survey_reviews(folder, reviews.settings())
    elif annotator == "phrases":
        counts = survey(folder, source)
    else:
        raise ConfigError(
            f"--annotator {annotator}: it writes texts from reviews, and {location} has none that "
            "need texts; leave the option out",
            code="no_reviews",
            key="--annotator",
            saw=annotator,
        )
    machine = machine or this_machine()
    text = project_text(
        reviews or source,
        f"{open_location(directory).uri.rstrip('/')}/workspace",
        survey=counts,
        settings=choose_settings(counts, machine),
        annotator=annotator,
    )
    target.write_bytes(text.encode("utf-8"))
    return Findings(folder, guess, counts, machine, str(target), reviews)


def _check_given(
    given: Mapping[str, str], folder: Folder, columns: Mapping[str, Mapping[str, ColumnNames]]
) -> None:
    """Raise DataError if a column is not used as what the user says that it is."""
    used = {f"{ours}={theirs}" for of in columns.values() for ours, theirs in of.items()}
    used |= {f"review={each.removeprefix('explanation=')}" for each in used}
    for unused in {f"{ours}={theirs}" for theirs, ours in given.items()} - used:
        raise DataError(
            f"--columns {unused}: no column of this name can be used so; ids and texts must "
            "stand in one file, and 19 of 20 ratings or times must be such; saw the columns\n"
            + seen_columns(folder.files),
            code="unusable_column",
            key="--columns",
            saw=unused,
        )


def file_rows(findings: Findings) -> list[list[str]]:
    """A row for each file: its name, its rows, the tables it holds, and the columns taken."""
    found, rows = findings.reviews or findings.guess, []
    for file in findings.folder.files:
        tables = [table for table, name in found.files.items() if name == file.name]
        taken = {
            ours: names if isinstance(names, str) else " + ".join(names)
            for table in tables
            for ours, names in found.columns[table].items()
            if names is not None
        }
        columns = ", ".join(f"{ours} = {names}" for ours, names in taken.items())
        rows.append([file.name, str(file.num_rows), " and ".join(tables) or "not used", columns])
    return rows


def notes(findings: Findings) -> list[str]:
    """What is missing, mended or left out, and what that means; one line each."""
    counts, reviews = findings.survey, findings.reviews
    lines = [*_missing_tables(findings), *(reviews.notes if reviews else ())]
    for name, foreign in findings.folder.foreign.items():
        word = re.findall(r"\w*[^\x00-\x7f]\w*", foreign[0])[0]
        lines.append(
            f"{name}: {len(foreign):,} lines are not UTF-8, they are read as "
            f"{findings.folder.settings()['encoding']} (source.encoding), such as {word!r}"
        )
    if not counts.can_train_adapter:
        lines.append(
            f"{sum(counts.num_explanations.values()) or 'no'} explanations: an adapter cannot be "
            "trained, so the project has no job that writes texts"
        )
    lines += [f"{num} reviews dropped: {reason}" for reason, num in counts.dropped.items()]
    return lines + [f"{num} rows left out, {why}" for why, num in counts.rejected.items()]


def _missing_tables(findings: Findings) -> list[str]:
    reviews, tables = findings.reviews, findings.guess.files
    if reviews is not None:
        own = reviews.columns["reviews"].get("item_title")
        titled = f"titles are those of {own!r}; source.columns.item_title: null for none"
        called = "items are called what their reviews call them, as this film"
        return (
            []
            if "items" in reviews.columns
            else [f"no table of items: {titled if own else called}"]
        )
    lines = []
    if "users" not in tables:
        lines.append("no table of users: profiles are empty, so texts cannot speak of the user")
    if "items" not in tables:
        lines.append("no table of items: texts cannot name or describe the item")
    return lines
