"""A block of rows of a file, by column, as it was read."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.errors import DataError

MISSING = object()
"""The cell of a row of JSON Lines that does not have the column."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, by column.

    numbers: the line of each row. columns: the cells of each column, by its name. text: returns the
    text of a line. problems: why rows cannot be read, by their line; they are in no column.
    """

    file: str
    numbers: Sequence[int]
    columns: Mapping[str, list[Any] | pa.Array]
    text: Callable[[int], str]
    problems: Mapping[int, str] = field(default_factory=dict)

    def cells(self, name: str) -> list[Any]:
        """Return the cells of a column; raise DataError if Python cannot hold one of them."""
        cells = self.columns[name]
        return cells if isinstance(cells, list) else self._listed(name, cells)

    def array(self, name: str) -> pa.Array | None:
        """Return a column as an array, if its cells are valid and all of the same type."""
        cells = self.columns[name]
        # Lone surrogates, large integers, and texts that are not UTF-8 are no valid cells.
        with suppress(ValueError, OverflowError):
            if isinstance(cells, list):
                types = {*map(type, cells)}
                if types <= {str, type(None)}:
                    return pa.array(cells, pa.large_string())
                return pa.array(cells, pa.int64()) if types == {int} else None
            cells.validate(full=True)
            is_dictionary = pa.types.is_dictionary(cells.type)
            return cells.cast(cells.type.value_type) if is_dictionary else cells
        return None

    def distinct(self, name: str) -> tuple[list[Any], npt.NDArray[np.int64]]:
        """Return different cells of a column, and for each row, the place of its own among them."""
        if (cells := self.array(name)) is not None:
            with suppress(pa.ArrowNotImplementedError):  # for lists and objects
                encoded = cells.dictionary_encode(null_encoding="encode")
                return self._listed(name, encoded.dictionary), encoded.indices.to_numpy()
        return self.cells(name), np.arange(len(self.numbers), dtype=np.int64)

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
