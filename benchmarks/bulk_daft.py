"""Daft as a contestant of benchmarks.bulk, by an interpreter of its own that has `daft`."""

from typing import Any

import daft  # type: ignore[import-not-found]
import pyarrow as pa

from benchmarks.bulk_work import TEXTS, Work, report

_MADE = daft.DataType.struct(
    {field.name: daft.DataType.from_arrow_type(field.type) for field in TEXTS}
)


def daft_parquet(work: Work) -> dict[str, Any]:
    """read_parquet, a function on batches in processes of its own, write_parquet."""

    @daft.cls(max_concurrency=work.num_actors, use_process=True)
    class Explain:
        @daft.method.batch(return_dtype=_MADE, batch_size=work.rows)  # type: ignore[untyped-decorator]
        def explained(self, users: daft.Series, items: daft.Series) -> Any:
            pairs = pa.table({"user_id": users.to_arrow(), "item_id": items.to_arrow()})
            made = work.explained(pairs).select(TEXTS.names).combine_chunks()
            return made.to_struct_array()

    pairs = daft.read_parquet(f"{work.pairs}/*.parquet").select("user_id", "item_id")
    made = pairs.with_column("made", Explain().explained(daft.col("user_id"), daft.col("item_id")))
    texts = [daft.col("made")[name].alias(name) for name in TEXTS.names]
    made.select("user_id", "item_id", *texts).write_parquet(f"{work.output}/rows")
    return {}


if __name__ == "__main__":
    report(Work.from_arguments()[1], daft_parquet)
