"""A later run generates only what changed; the rest is taken over from what is published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.backfill.runs import never, output_of, pairs_of, plan, published_rows, run
from tests.xrec.backfill.toy_engines import Toy, calls
from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import toy_run
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError

pytestmark = pytest.mark.usefixtures("actors_here")

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
FIRST = tuple(f"u{user} i{item}" for user in range(12) for item in range(3))
SIX = FIRST[:6]
TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest


def _with_table(folder: Path, name: str, **columns: str) -> dict[str, str]:
    """A cold start that gives a known user or item other texts."""
    pq.write_table(pa.table({name: [text] for name, text in columns.items()}), folder / name)
    return {name: str(folder / name)}


def test_carry_generates_only_new_pairs_and_those_of_a_changed_profile(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path, called: Path
) -> None:
    config = make_config(rows_per_chunk=8)
    output = output_of(config)
    run(config, pairs(*FIRST), load=Toy())
    changed = _with_table(tmp_path, "users", user_id="u7", profile="Now a poet.")
    new = ("u0 i3", "u5 i4")
    given = pairs(*FIRST[:-1], *new, "nobody i0")
    config = make_config(rows_per_chunk=8, cold_start=changed)
    manifest = run(config, given, load=Toy(calls=str(called), says="made later"))
    made = sorted(["u7 i0", "u7 i1", "u7 i2", *new])
    assert calls(called) == made
    rows = published_rows(output)
    assert pairs_of(rows) == sorted({*FIRST[:-1], *new})
    assert pairs_of([row for row in rows if row["explanation"].startswith("made later")]) == made
    assert manifest.metrics["num_carried"] == len(rows) - len(made)
    assert manifest.row_counts == {"explanations": len(rows), "failed": 1, "rejected": 0}


def test_carry_from_another_output_needs_it_no_more_once_the_run_is_planned(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    run(make_config(), pairs(*FIRST), load=Toy())
    first = output_of(make_config())
    before = published_rows(first)
    values = {"carry_from": first.uri, "explanations": str(tmp_path / "second")}
    plan(make_config(**values), pairs(*FIRST[:20]))
    first.delete()
    manifest = run(make_config(**values), pairs(*FIRST[:20]), load=Toy(says="made later"))
    assert manifest.metrics["num_carried"] == 20
    carried = published_rows(output_of(make_config(**values)))
    assert carried == [row for row in before if pairs_of([row])[0] in FIRST[:20]]


def test_carry_from_null_generates_everything(
    make_config: MakeConfig, pairs: MakePairs, called: Path
) -> None:
    run(make_config(), pairs(*SIX), load=Toy())
    manifest = run(make_config(carry_from=None), pairs(*SIX[:5]), load=Toy(calls=str(called)))
    assert (manifest.metrics["num_carried"], calls(called)) == (0, sorted(SIX[:5]))


def test_carry_of_texts_with_another_decoding_generates_everything(
    make_config: MakeConfig, pairs: MakePairs, called: Path
) -> None:
    run(make_config(), pairs(*SIX), load=Toy())
    other = make_config(decoding={"max_new_tokens": 5, "text": TEXT})
    manifest = run(other, pairs(*SIX), load=Toy(calls=str(called)))
    assert (manifest.metrics["num_carried"], calls(called)) == (0, sorted(SIX))


def test_carry_leaves_texts_that_name_an_item_which_is_new_in_the_catalogue(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path, called: Path
) -> None:
    says = "With Blue Heron there is tea,"
    run(make_config(), pairs(*SIX), load=Toy(says=says))
    assert pairs_of(published_rows(output_of(make_config()))) == sorted(SIX)
    renamed = _with_table(tmp_path, "items", item_id="wordy", title="Blue Heron", profile="Near.")
    config = make_config(cold_start=renamed)
    manifest = run(config, pairs(*SIX), load=Toy(calls=str(called), says=says))
    assert (manifest.metrics["num_carried"], calls(called)) == (0, sorted(SIX))
    failed = published_rows(output_of(config), failed=True)
    assert {row["reason"] for row in failed} == {"names_another_item"}
    assert pairs_of(failed) == sorted(SIX)


def test_carry_from_a_table_of_other_columns_or_from_nothing_is_refused(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.complete()
    config = make_config(carry_from=toy.run.output.uri)
    with pytest.raises(ArtifactMismatchError, match=r"words: its rows have other columns, .*expla"):
        run(config, pairs(*SIX), load=never)
    config = make_config(carry_from=str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactNotFoundError, match="nowhere: nothing was published there"):
        run(config, pairs(*SIX), load=never)
    assert output_of(config).files() == []
