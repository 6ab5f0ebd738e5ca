"""Backfills as their job does them, without its cluster, and with engines without a model.

The rows are read by deltalake and pyarrow, without code of xrec.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.dataset as pads

from tests.world.shop import with_uris
from xrec.backfill.driver import run_backfill
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import LoadExplainer, MakeExplainTask, load_task_explainer
from xrec.bulk import BulkRun
from xrec.config import BackfillConfig, TablePairs, parse_config
from xrec.generate.engine import Completion, EngineReport
from xrec.generate.explainer import Explainer
from xrec.generate.shared_engine import Again, Requests
from xrec.nights import make_gate
from xrec.schemas import GIVEN, PAIRS
from xrec.storage import Location, open_location, parquet_bytes

DECODING = {"max_new_tokens": 4, "text": {"max_words": None, "refuses_repetition": False}}
"""Texts of a toy model, which are no sentences, are not checked."""
OTHER_DECODING = {**DECODING, "max_new_tokens": 5}


@dataclass(frozen=True)
class Toy:
    """Loads, for a MakeExplainTask, a real explainer with an `EchoEngine`.

    A pair in `broken` raises an error; a pair in `mute` gets an empty text until the file `healed`
    exists in the folder. Each call of the engine adds its pairs to the folder's `calls`. A text is
    `says` and the IDs of its pair.
    """

    folder: str
    broken: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    says: str = "explained"

    def __call__(self, made: MakeExplainTask) -> Explainer:
        real = load_task_explainer(made)
        return replace(real, engine=EchoEngine(real, self))


class EchoEngine:
    """Writes the IDs of the prompt's user and item."""

    def __init__(self, real: Explainer, toy: Toy):
        self._builder, self._dataset = real.pairs.builder, real.dataset
        self._toy = toy

    def complete(self, requests: Requests, again: Again) -> Iterator[Completion]:
        """Yield one completion per prompt, the last one first."""
        names = [self._name(prompt) for prompt, _ in requests]
        calls = Path(self._toy.folder) / "calls"
        calls.mkdir(exist_ok=True)
        with (calls / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in names))
        if any(name in self._toy.broken for name in names):
            raise RuntimeError("the kernel has no image for this device")
        is_healed = (Path(self._toy.folder) / "healed").exists()
        for index, name in reversed(list(enumerate(names))):
            is_mute = name in self._toy.mute and not is_healed
            text = "" if is_mute else f"{self._toy.says} {name}"
            completion = Completion(index, self._builder.encode_explanation(text)[:-1], "stop")
            assert again(completion) is None
            yield completion

    def take_report(self) -> EngineReport:
        return EngineReport()

    def _name(self, prompt: Sequence[int]) -> str:
        """Return the IDs of the prompt's collaborative tokens."""
        vocabulary = self._builder.vocabulary
        user, item = sorted(
            token - vocabulary.num_text_tokens
            for token in prompt
            if token >= vocabulary.num_text_tokens
        )
        users, items = self._dataset.users["user_id"], self._dataset.items["item_id"]
        return f"{users[user]} {items[item - vocabulary.num_users]}"


@dataclass(frozen=True)
class Runs:
    """Makes configs and runs of pairs such as "u0 i1".

    folder: of the outputs and of the files of toy engines.
    """

    workspace: Path
    folder: Path

    def config(self, *pairs: str, **values: Any) -> BackfillConfig:
        """Return a config of these pairs, or of the test split, with some values changed."""
        defaults = {
            "workspace": str(self.workspace),
            "explanations": str(self.folder / "explanations"),
            "pairs": {"kind": "split", "split": "test"},
            "rows_per_chunk": 3,
            "max_failed_share": 1.0,
            "gate": None,
            "llm": {"model": str(self.workspace / "llm")},
            "decoding": DECODING,
            "actors": {"num_processes": 2, "device": "cpu"},
        }
        config = parse_config(BackfillConfig, with_uris({**defaults, **values}))
        return with_pairs(config, pairs_table(*pairs)) if pairs else config

    def plan(self, *pairs: str, **values: Any) -> BulkRun:
        return open_backfill(self.config(*pairs, **values))

    def run(self, *pairs: str, toy: LoadExplainer | None = None, **values: Any) -> Any:
        """Do a whole run with a toy engine; return the manifest, or None if the limit ended it."""
        config = self.config(*pairs, **values)
        run = open_backfill(config)
        return run_backfill(config, run, toy or self.toy(), make_gate(config, run))

    def toy(self, **settings: Any) -> Toy:
        return Toy(str(self.folder), **settings)

    def heal(self) -> None:
        (self.folder / "healed").touch()

    def calls(self) -> list[str]:
        """Return the pairs that toy engines in all processes got since the last call."""
        files = list((self.folder / "calls").glob("*"))
        found = [line for file in files for line in file.read_text("utf-8").splitlines()]
        for file in files:
            file.unlink()
        return sorted(found)

    @property
    def output(self) -> Location:
        """The default output."""
        return output_of(self.config())


def never(made: MakeExplainTask) -> Explainer:
    """Stand in for `toy` where no actor may start."""
    raise AssertionError(f"an actor was started for {made.config.artifact('dataset')}")


def pairs_table(*pairs: str) -> pa.Table:
    rows = [dict(zip(PAIRS.names, pair.split(), strict=True)) for pair in pairs]
    return pa.Table.from_pylist(rows, pa.schema([*PAIRS, *GIVEN]))


def with_pairs(config: BackfillConfig, pairs: pa.Table) -> BackfillConfig:
    """Write the pairs to a table beside the output; return the config that reads it."""
    location = open_location(f"{config.artifact('explanations')}-pairs.parquet", config.storage)
    data = parquet_bytes(pairs, pairs.schema)
    if not location.is_file() or location.read_bytes() != data:
        location.write_bytes(data)
    return config.model_copy(update={"pairs": TablePairs(kind="table", uri=location.uri)})


def output_of(config: BackfillConfig) -> Location:
    return open_location(config.artifact("explanations"), config.storage)


def published_rows(
    output: Location, failed: bool = False, version: int | None = None
) -> list[dict[str, Any]]:
    """Return the explanations, or the failed rows, of a version, by default the newest.

    They are sorted by user and item, without columns that are null.
    """
    table = deltalake.DeltaTable(
        output.uri, version=version, storage_options=output.delta_options()
    )
    status = pads.field("status") == ("failed" if failed else "ok")
    rows = table.to_pyarrow_dataset().to_table(filter=status).to_pylist()
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return sorted(kept, key=lambda row: (row["user_id"], row["item_id"]))


def pairs_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return each row's pair as the text "USER ITEM"."""
    return [f"{row['user_id']} {row['item_id']}" for row in rows]
