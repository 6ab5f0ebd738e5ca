"""What readers take: the run that was published last, until something is rolled back or emptied."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.backfill import output
from tests.xrec.backfill.runs import (
    never,
    output_of,
    pairs_of,
    plan,
    published_rows,
    run,
    with_pairs,
)
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import finish, has_work, read
from xrec.bulk import empty, rollback
from xrec.errors import ArtifactNotFoundError, TableError
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
ALL = tuple(f"u{user} i{item}" for user in range(12) for item in range(4))
OTHER = {"decoding": {"max_new_tokens": 5, "text": {"max_words": None, "max_phrase_repeats": None}}}


def test_publish_replaces_another_run_and_the_first_one_can_be_published_again(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config, given = make_config(), pairs(*ALL)
    output = output_of(config)
    first = run(config, given, load=Toy())
    before = published_rows(output)
    opened = read(output.uri)
    second = run(make_config(**OTHER), given, load=Toy(says="made later"))
    assert (first.version, second.version) == (0, 1)
    assert second.run != first.run
    assert second.fingerprint != first.fingerprint
    after = published_rows(output)
    assert pairs_of(after) == sorted(ALL)
    assert {row["explanation"][:10] for row in after} == {"made later"}
    assert opened.to_table().num_rows == len(ALL)  # of the version that it opened
    assert published_rows(output, version=0) == before

    again = run(config, given, load=never)
    assert (again.version, again.run, again.fingerprint) == (2, first.run, first.fingerprint)
    assert published_rows(output) == before


def test_publish_of_what_was_rolled_back_or_emptied_must_be_asked_for(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config, given = make_config(), pairs(*ALL)
    output = output_of(config)
    run(make_config(**OTHER), given, load=Toy())
    first = published_rows(output)
    run(config, given, load=Toy(says="made later"))
    later = published_rows(output)
    for take_back in (lambda: rollback(output.uri, 0), lambda: empty(output.uri)):
        take_back()
        assert published_rows(output) in (first, [])
        with pytest.raises(TableError, match=r"took it back; .* say so \(republish=true\)"):
            run(config, given, load=never)
        run(make_config(republish=True), given, load=never)
        assert published_rows(output) == later
    empty(output.uri)
    with pytest.raises(ArtifactNotFoundError, match="it was emptied"):
        read(output.uri)


def test_publish_is_left_out_while_pairs_are_left(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    """The run that is published stays until another one is done."""
    config, given = make_config(), pairs(*ALL)
    assert finish(config, plan(config, given)) is None
    first = run(config, given, load=Toy())
    other = make_config(**OTHER)
    assert has_work(other, plan(other, given))
    assert finish(other, plan(other, given)) is None
    assert read_manifest(output_of(config), "explanations") == first


def test_upkeep_deletes_files_of_no_version_and_keeps_those_of_earlier_ones(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config(upkeep={"vacuum": True, "retention_hours": 1})
    output = output_of(config)
    run(make_config(), pairs(*ALL), load=Toy())
    before = published_rows(output)
    stray = Path(output.path) / "part-of-a-publisher-that-died.parquet"
    stray.write_bytes(b"")
    two_hours_ago = time.time() - 7200
    os.utime(stray, (two_hours_ago, two_hours_ago))
    run(config, pairs(*ALL[:9]), load=Toy())
    assert not stray.exists()
    assert published_rows(output, version=0) == before
    assert pairs_of(published_rows(output)) == sorted(ALL[:9])


def test_export_of_each_version_is_a_folder_of_its_own(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path, muted: Path
) -> None:
    folder = tmp_path / "files"
    toy = Toy(mute=ALL[:2], muted=str(muted))
    config = with_pairs(make_config(export=str(folder)), pairs(*ALL))
    for version, retry in enumerate((None, ("all",))):
        manifest = run(config.model_copy(update={"retry_failed": retry}), load=toy)
        assert manifest.version == version
        files = folder / f"version-{version}"
        assert json.loads((files / "_SUCCESS").read_text())["version"] == version
        rows = pq.read_table(files).sort_by([("user_id", "ascending"), ("item_id", "ascending")])
        there = published_rows(output_of(config))
        assert rows["explanation"].to_pylist() == [row["explanation"] for row in there]
        assert len(there) == len(ALL) - (2 if muted.exists() else 0)
        muted.unlink(missing_ok=True)
    assert output(config, exact=False).found().state == "same"
    (folder / "version-1" / "_SUCCESS").unlink()
    assert output(config, exact=False).found().state == "begun"  # so that `xrec run` runs the job
    without = config.model_copy(update={"export": None})
    assert output(without, exact=False).found().state == "same"
