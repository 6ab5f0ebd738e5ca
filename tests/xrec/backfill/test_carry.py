"""A second run generates only what changed; the rest is carried from the first run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, published_rows, run
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.errors import ArtifactNotFoundError

MakeConfig = Callable[..., Any]
FIRST = tuple(f"u{user} i{item}" for user in range(12) for item in range(3))
TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest
NEW = ("u0 i3", "u5 i4")


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """The folder in which toy engines write their pairs."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def _with_profile(folder: Path, user_id: str, profile: str) -> dict[str, str]:
    """Return a cold start that gives a known user another profile."""
    pq.write_table(
        pa.table({"user_id": [user_id], "profile": [profile]}), folder / f"{user_id}.parquet"
    )
    return {"users": str(folder / f"{user_id}.parquet")}


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("is_compacted", [False, True])
def test_carry_generates_only_new_pairs_and_those_of_a_changed_profile(
    make_config: MakeConfig,
    pairs: Callable[..., pa.Table],
    tmp_path: Path,
    called: Path,
    is_compacted: bool,
) -> None:
    config = make_config(rows_per_chunk=8, upkeep={"compact": is_compacted})
    run(config, pairs(*FIRST), load=Toy())
    first = output_of(config)

    values = {
        "carry_from": first.uri,
        "explanations": str(tmp_path / "second"),
        "cold_start": _with_profile(tmp_path, "u7", "Now a poet."),
    }
    second = make_config(rows_per_chunk=8, **values)
    given = pairs(*FIRST[:-1], *NEW, "nobody i0")
    manifest = run(second, given, load=Toy(calls=str(called), says="made later"))
    made = sorted(["u7 i0", "u7 i1", "u7 i2", *NEW])
    assert sorted(calls(called)) == made
    expected = sorted({*FIRST[:-1], *NEW})
    rows = published_rows(output_of(second))
    assert pairs_of(rows) == expected
    later = [row for row in rows if row["explanation"].startswith("made later")]
    assert pairs_of(later) == made
    assert manifest.metrics["num_carried"] == len(expected) - len(made)
    pins = (first / "_xrec" / "pins").files()
    assert [name for name in pins if name.startswith("carry-")] == []

    # The first run is of no matter any more. A third one carries everything from the second.
    first.delete()
    for path in called.iterdir():
        path.unlink()
    third = make_config(
        rows_per_chunk=8,
        **{**values, "carry_from": output_of(second).uri, "explanations": str(tmp_path / "third")},
    )
    manifest = run(third, pairs(*expected[:20]), load=Toy(calls=str(called)))
    assert manifest.metrics["num_carried"] == 20
    assert calls(called) == []
    carried = published_rows(output_of(third))
    assert [row["explanation"] for row in carried] == [row["explanation"] for row in rows[:20]]
    assert pairs_of(carried) == expected[:20]


@pytest.mark.usefixtures("actors_here")
def test_carry_goes_on_after_the_earlier_run_changed(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    """The earlier run is retried and compacted while a run that depends on it is interrupted."""
    muted = tmp_path / "muted"
    muted.touch()
    toy = Toy(mute=FIRST[:2], muted=str(muted))
    run(make_config(), pairs(*FIRST), load=toy)
    second = make_config(
        carry_from=output_of(make_config()).uri, explanations=str(tmp_path / "second")
    )
    planned = plan(second, pairs(*FIRST))
    muted.unlink()
    again = {"retry_failed": "all", "upkeep": {"compact": True, "vacuum": True}}
    run(make_config(**again), pairs(*FIRST), load=toy)
    assert plan(second, pairs(*FIRST)).plan.record == planned.plan.record
    manifest = run(second, pairs(*FIRST), load=Toy())
    assert manifest.metrics["num_carried"] == len(FIRST) - 2
    assert pairs_of(published_rows(output_of(second))) == sorted(FIRST)


@pytest.mark.usefixtures("actors_here")
def test_carry_from_a_run_with_another_decoding_generates_everything(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path, called: Path
) -> None:
    run(make_config(), pairs(*FIRST[:6]), load=Toy())
    values = {
        "carry_from": output_of(make_config()).uri,
        "explanations": str(tmp_path / "second"),
        "decoding": {"max_new_tokens": 5, "text": TEXT},
    }
    assert (
        run(make_config(**values), pairs(*FIRST[:6]), load=Toy(calls=str(called))).metrics[
            "num_carried"
        ]
        == 0
    )
    assert sorted(calls(called)) == sorted(FIRST[:6])


@pytest.mark.usefixtures("actors_here")
def test_carry_leaves_texts_that_name_an_item_which_is_new_in_the_catalogue(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path, called: Path
) -> None:
    says = "With Blue Heron there is tea,"
    first = make_config(rows_per_chunk=3)
    run(first, pairs(*FIRST[:6]), load=Toy(says=says))
    assert pairs_of(published_rows(output_of(first))) == sorted(FIRST[:6])
    renamed = tmp_path / "items.parquet"
    pq.write_table(
        pa.table({"item_id": ["wordy"], "title": ["Blue Heron"], "profile": ["Near."]}), renamed
    )
    second = make_config(
        rows_per_chunk=3,
        carry_from=output_of(first).uri,
        explanations=str(tmp_path / "second"),
        cold_start={"items": str(renamed)},
    )
    manifest = run(second, pairs(*FIRST[:6]), load=Toy(calls=str(called), says=says))
    assert manifest.metrics["num_carried"] == 0
    assert sorted(calls(called)) == sorted(FIRST[:6])
    failed = published_rows(output_of(second), failed=True)
    assert {row["reason"] for row in failed} == {"names_another_item"}
    assert pairs_of(failed) == sorted(FIRST[:6])


def test_carry_from_an_unfinished_run_is_refused(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactNotFoundError, match="nowhere: no run was planned there"):
        run(make_config(carry_from=str(tmp_path / "nowhere")), pairs(*FIRST))
    assert output_of(make_config()).files() == []
    earlier = make_config(explanations=str(tmp_path / "earlier"))
    plan(earlier, pairs(*FIRST))
    with pytest.raises(ArtifactNotFoundError, match="earlier: the run is not finished"):
        run(make_config(carry_from=output_of(earlier).uri), pairs(*FIRST))
