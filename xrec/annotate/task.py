"""What an actor does with some rows of a stage: it asks its annotator, and checks what it gets."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from xrec.annotate.annotator import Annotator
from xrec.annotate.rows import Failure
from xrec.annotate.stages import TextStage
from xrec.bulk import Outcome, RowFormat


class TextTask:
    """Writes the texts of some rows (a ChunkTask and a CarryingTask of xrec.bulk).

    settings: a fingerprint of the annotator's settings and models, and of what it learned; a part
        of each `content_key`.
    """

    def __init__(
        self,
        stage: TextStage[Any, Any],
        annotator: Annotator,
        format: RowFormat,
        settings: str,
        row_errors: tuple[type[Exception], ...] = (),
    ):
        self.row_errors = row_errors
        self._stage = stage
        self._annotator = annotator
        self._format = format
        self._settings = settings

    def do(self, rows: pa.Table) -> Outcome:
        """Write the texts; the costs have what the annotator counts, and `personal_removed`."""
        inputs = self._stage.inputs(rows)
        results: list[Any] = [self._stage.refused(row) for row in inputs]
        asked = [place for place, refused in enumerate(results) if refused is None]
        costs: dict[str, float] = {"personal_removed": 0}
        if asked:
            written = self._stage.write(self._annotator, [inputs[place] for place in asked])
            if len(written.results) != len(asked):
                raise ValueError(
                    f"{type(self._annotator).__name__} got {len(asked)} rows and returned "
                    f"{len(written.results)}; expected a text or a failure for each"
                )
            for place, result in zip(asked, written.results, strict=True):
                results[place] = result
            costs.update(written.costs)
        ok, failed = [], []
        for number, (row, result) in enumerate(zip(inputs, results, strict=True)):
            if isinstance(result, Failure):
                failed.append((number, result))
                continue
            text, num_removed = self._stage.without_personal(result)
            costs["personal_removed"] += num_removed
            key = self._content_key(row)
            ok.append({**self._stage.columns(row, text), "content_key": key})
        return Outcome(
            pa.Table.from_pylist(ok, schema=self._format.ok_schema),
            self._failed(rows, failed),
            costs,
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The rows as failed ones."""
        failure = Failure(reason, message)
        return self._failed(rows, [(number, failure) for number in range(rows.num_rows)])

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """Whether each earlier text was written from the same inputs by the same annotator."""
        keys = [self._content_key(row) for row in self._stage.inputs(earlier)]
        found = earlier["content_key"].to_pylist()
        return pa.array([key == there for key, there in zip(keys, found, strict=True)], pa.bool_())

    def _content_key(self, row: Any) -> str:
        data = f"{self._settings}\n{row!r}".encode("utf-8", errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=8).hexdigest()

    def _failed(self, rows: pa.Table, failures: Sequence[tuple[int, Failure]]) -> pa.Table:
        keys = rows.select(list(self._format.keys)).take(
            pa.array([number for number, _ in failures], pa.int64())
        )
        for name in ("reason", "message", "reply"):
            column = pa.array([getattr(failure, name) for _, failure in failures], pa.string())
            keys = keys.append_column(name, column)
        return keys
