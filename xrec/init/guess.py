"""Which file of a folder is which table, and which of its columns is which of ours.

First by names (`words`), then by values: a column of the pairs that holds the keys of another file
points to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xrec.config.data import TABLE_COLUMNS, TableColumns
from xrec.data.rows import SPLITS
from xrec.errors import DataError
from xrec.init import words
from xrec.init.files import Column, File, likeliest
from xrec.init.tables import ColumnNames, Pairs, entity_columns, find_entities, find_pairs

_LEAST_LENGTH = 0.5  # of the interactions, in rows, against the explanations


@dataclass(frozen=True)
class Guess:
    """The file of each table found, our columns in terms of theirs, and what of it is uncertain.

    columns: by table, then by our column; a list is joined to one text, None stays empty.
    """

    files: Mapping[str, str]
    columns: Mapping[str, Mapping[str, ColumnNames]]
    notes: tuple[str, ...]

    def settings(self) -> dict[str, ColumnNames]:
        """The value of `source.columns`."""
        return differing_names(self.columns, TABLE_COLUMNS)


def differing_names(
    columns: Mapping[str, Mapping[str, ColumnNames]], known: TableColumns
) -> dict[str, ColumnNames]:
    """Our columns of the tables `known` that have other names in the files, and these names.

    A key has the table's name before it unless all tables agree.
    """
    found: dict[str, ColumnNames] = {}
    for column in dict.fromkeys(name for names in known.values() for name in names):
        tables = [table for table in columns if column in known[table]]
        theirs = {table: columns[table][column] for table in tables if column in columns[table]}
        if len(theirs) == len(tables) and len(set(map(str, theirs.values()))) == 1:
            theirs = {"": next(iter(theirs.values()))}
        for table, name in theirs.items():
            if name != column:
                found[f"{table}.{column}" if table else column] = name
    return found


def guess_tables(files: Sequence[File]) -> Guess:
    """Find the tables.

    Raises DataError, with the columns seen, if no file has pairs of users and items.
    """
    found = find_pairs(files)
    if not found:
        raise DataError(_no_pairs(files))
    explained = _explained(found)
    interactions = _interactions(found, explained)
    tables = {"interactions": interactions.file.name}
    columns = {"interactions": _pair_columns(interactions)}
    notes = [*interactions.notes]
    if explained is not None and explained.text is not None:
        tables["explanations"] = explained.file.name
        columns["explanations"] = {**_pair_columns(explained), "explanation": explained.text.name}
        notes += [*explained.notes, *_explanation_notes(explained.file, explained.text)]
    entities = find_entities(files, [pairs for pairs in (interactions, explained) if pairs])
    for table, (file, key) in entities.items():
        tables[table] = file.name
        columns[table] = entity_columns(file, key, table)
    order = [table for table in TABLE_COLUMNS if table in tables]
    return Guess(
        {table: tables[table] for table in order},
        {table: columns[table] for table in order},
        tuple(dict.fromkeys(notes)),
    )


def _no_pairs(files: Sequence[File]) -> str:
    seen = "\n".join(
        f"  {file.name}: {', '.join(column.name for column in file.columns)}" for file in files
    )
    return (
        "no file has an id of a user and an id of an item in each row, so there are no "
        f"interactions; saw the columns\n{seen}\nname the id columns user_id and item_id, or "
        "write the project file by hand, with source.files and source.columns"
    )


def _explanation_notes(file: File, text: Column) -> list[str]:
    if words.rank(text.name, "explanation") is not None:
        return []
    return [f"{file.name}: {text.name} is taken for the explanation: its texts are the longest"]


def _explained(found: Sequence[Pairs]) -> Pairs | None:
    """The pairs with explanations: those whose column and file have the likeliest names."""

    def order(pairs: Pairs) -> tuple[int, int, int]:
        assert pairs.text is not None
        rank = words.rank(pairs.text.name, "explanation")
        is_named = words.table_of_file(pairs.file.stem) == "explanations"
        return 99 if rank is None else rank, 0 if is_named else 1, -pairs.file.num_rows

    return min((pairs for pairs in found if pairs.text is not None), key=order, default=None)


def _interactions(found: Sequence[Pairs], explained: Pairs | None) -> Pairs:
    """Another file than the explanations if it has no texts and is not much shorter, else these."""

    def is_candidate(pairs: Pairs) -> bool:
        if explained is None:
            return True
        is_named = words.table_of_file(pairs.file.stem) == "interactions"
        is_long = pairs.file.num_rows >= _LEAST_LENGTH * explained.file.num_rows
        return pairs is not explained and is_long and (pairs.text is None or is_named)

    def order(pairs: Pairs) -> tuple[int, int]:
        is_named = words.table_of_file(pairs.file.stem) == "interactions"
        return 0 if is_named else 1, -pairs.file.num_rows

    best = min(filter(is_candidate, found), key=order, default=explained)
    assert best is not None
    return best


def _pair_columns(pairs: Pairs) -> dict[str, ColumnNames]:
    columns: dict[str, ColumnNames] = {"user_id": pairs.user.name, "item_id": pairs.item.name}
    splits = [each for each in pairs.file.columns if each.values and each.values <= set(SPLITS)]
    split = likeliest(splits, "split")
    return columns if split is None else {**columns, "split": split.name}
