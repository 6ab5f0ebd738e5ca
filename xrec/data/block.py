"""A block of rows of a file, by column, as it was read."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xrec.data.findings import Finding
from xrec.errors import DataError

MISSING = object()
"""The cell of a row of JSON Lines that does not have the column."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, by column.

    numbers: the line of each row. columns: the cells of each column, by its name. text: returns the
    text of a row, given its position in the block. findings: the rows that cannot be read.
    """

    file: str
    numbers: Sequence[int]
    columns: Mapping[str, list[Any] | pa.Array]
    text: Callable[[int], str]
    findings: Sequence[Finding] = ()

    def cells(self, name: str) -> list[Any]:
        """Return the cells of a column; raise DataError if Python cannot hold one of them."""
        cells = self.columns[name]
        return cells if isinstance(cells, list) else self._listed(name, cells)

    def distinct(self, name: str) -> tuple[list[Any], npt.NDArray[np.int64]]:
        """Return different cells of a column, and for each row, the place of its own among them."""
        cells = _as_array(self.columns[name])
        if cells is not None:
            with suppress(pa.ArrowNotImplementedError):  # for lists and objects
                encoded = cells.dictionary_encode(null_encoding="encode")
                return self._listed(name, encoded.dictionary), encoded.indices.to_numpy()
        return self.cells(name), np.arange(len(self.numbers), dtype=np.int64)

    def ids(self, name: str) -> pa.Array | None:
        """Return a column as strings; None if not all cells are integers or non-empty strings."""
        cells = _as_array(self.columns[name])
        if cells is None or not pa.types.is_integer(cells.type):
            cells = self.strings(name)
            if cells is None or not pc.all(pc.greater(pc.binary_length(cells), 0)).as_py():
                return None
        return None if cells.null_count else cells.cast(pa.large_string())

    def strings(self, name: str) -> pa.Array | None:
        """Return a column of strings, which may be null; None if it has any other cells."""
        cells = _as_array(self.columns[name])
        if cells is None or not (
            pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)
        ):
            return None
        with suppress(pa.ArrowInvalid):
            cells.validate(full=True)  # checks the UTF-8
            return cells.cast(pa.large_string())
        return None

    def _listed(self, name: str, cells: pa.Array) -> list[Any]:
        try:
            return list(cells.to_pylist())
        except (OverflowError, ValueError) as error:
            raise DataError(
                f"{self.file}: column {name!r} of type {cells.type} has a value that cannot be "
                f"read ({error}); expected dates in the years 1 to 9999; fix or drop it",
                code="unreadable_value",
                key=name,
            ) from error


def _as_array(cells: list[Any] | pa.Array) -> pa.Array | None:
    """Return the cells as an array, if they are all texts (or null) or all integers."""
    if isinstance(cells, pa.Array):
        is_dictionary = pa.types.is_dictionary(cells.type)
        return cells.cast(cells.type.value_type) if is_dictionary else cells
    types = {*map(type, cells)}
    with suppress(ValueError, OverflowError):  # lone surrogates; large integers
        if types <= {str, type(None)}:
            return pa.array(cells, pa.large_string())
        if types == {int}:
            return pa.array(cells, pa.int64())
    return None


class Part(NamedTuple):
    """Rows of text as read: the number of their first line, their text, and their cells.

    problems: the reasons of those that cannot be read, by position; "" for rows without cells.
    """

    numbers: Sequence[int]
    texts: Sequence[str]
    cells: Sequence[Any]
    problems: Mapping[int, str]


def block_of(
    file: str, part: Part, columns: Callable[[Sequence[Any]], dict[str, list[Any]]]
) -> Block:
    """Return the rows that can be read; `columns` returns their cells by column."""
    numbers, texts, cells, problems = part
    findings = [
        Finding(file, numbers[row], problem, texts[row].rstrip("\r\n"))
        for row, problem in problems.items()
        if problem
    ]
    if problems:
        good = [row for row in range(len(cells)) if row not in problems]
        numbers, texts = [numbers[row] for row in good], [texts[row] for row in good]
        cells = [cells[row] for row in good]
    return Block(file, numbers, columns(cells), lambda row: texts[row].rstrip("\r\n"), findings)
