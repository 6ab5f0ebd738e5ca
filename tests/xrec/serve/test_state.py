"""The inputs of a frontend.

A later version of the backfill is taken without a restart. Another model's backfill is refused,
at the start and later.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.serve import checked
from tests.object_store import ObjectStore, requests_of
from tests.xrec.serve.town import backfill_config, ids_of, make_backfill, serve_config
from xrec.backfill.lookup import Explained
from xrec.bulk import rollback
from xrec.config.serve import ServeConfig
from xrec.errors import ArtifactMismatchError
from xrec.serve.live import LivePair
from xrec.serve.messages import PairRequest
from xrec.serve.metrics import FRONTEND, Recorder
from xrec.serve.read_through import ReadThrough
from xrec.serve.state import BackfillWatch, read_inputs, read_lookup
from xrec.storage import open_location, read_manifest


class NoModel:
    """A `Model` that must not be asked."""

    async def explain(self, pairs: list[LivePair]) -> None:
        raise AssertionError(pairs)


def watched(config: ServeConfig) -> tuple[ReadThrough, BackfillWatch, Recorder]:
    recorder = Recorder(FRONTEND)
    read_through = ReadThrough(NoModel(), recorder, 2**20)  # type: ignore[arg-type]
    fingerprints = read_inputs(config).fingerprints
    watch = BackfillWatch(config, fingerprints, read_through, recorder)
    read_through.lookup = read_lookup(config, fingerprints)
    return read_through, watch, recorder


def test_fingerprint_is_the_one_that_the_backfills_rows_have(town: Path) -> None:
    inputs = read_inputs(serve_config(town))
    lookup = read_lookup(serve_config(town), inputs.fingerprints)
    users, items = ids_of(town)
    assert lookup is not None
    row = lookup.find(users[0], items[0])
    assert row is not None
    assert row.model_fingerprint == inputs.model_fingerprint


def test_catalogue_finds_the_aspects_of_its_dataset(town: Path) -> None:
    catalogue = read_inputs(serve_config(town)).catalogue
    assert catalogue.dataset.aspects is not None
    aspect = catalogue.dataset.aspects["aspect"][0].as_py()
    found = catalogue.aspect_names.find(f"You would enjoy its {aspect}.")
    assert [each.name for each in found] == [aspect]


def test_any_process_can_open_what_a_relative_uri_names(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, items = ids_of(town)
    pq.write_table(
        pa.table({"user_id": ["newcomer"], "item_id": [items[0]]}), tmp_path / "new.parquet"
    )
    cold_start = {"interactions": os.path.relpath(tmp_path / "new.parquet", town)}
    monkeypatch.chdir(town)
    config = checked(serve_config(town, workspace=".", adapter="adapter", cold_start=cold_start))
    monkeypatch.chdir("/")
    catalogue = read_inputs(config).catalogue
    assert (config.adapter, config.dataset) == (str(town / "adapter"), str(town / "dataset"))
    assert catalogue.dataset.num_users == len(users) + 1


def test_backfill_that_comes_later_or_grows_is_taken_up(town: Path, tmp_path: Path) -> None:
    users, items = ids_of(town)
    config = serve_config(town, explanations=str(tmp_path / "out"))
    read_through, watch, recorder = watched(config)
    assert read_through.lookup is None
    asyncio.run(watch.look())
    assert read_through.lookup is None
    make_backfill(backfill_config(town, str(tmp_path / "out")), [(users[0], items[0])])
    asyncio.run(watch.look())
    first = read_through.lookup
    assert first is not None
    assert first.find(users[0], items[0]) is not None
    asyncio.run(watch.look())
    assert read_through.lookup is first  # nothing was read, because nothing is new
    both = [(users[0], items[0]), (users[1], items[1])]
    make_backfill(backfill_config(town, str(tmp_path / "out")), both)
    asyncio.run(watch.look())
    second = read_through.lookup
    assert second is not None
    assert (first.num_rows, second.num_rows) == (1, 2)
    assert second.find(users[0], items[0]) == first.find(users[0], items[0])
    text = recorder.text().decode()
    assert 'xrec_serve_backfill_refreshes_total{outcome="taken"} 2.0' in text
    assert "xrec_serve_backfill_rows 2.0" in text
    rollback(str(tmp_path / "out"), 0)
    asyncio.run(watch.look())
    assert read_through.lookup is not None
    assert (read_through.lookup.num_rows, read_through.lookup.manifest.version) == (1, 2)


def test_backfill_that_is_deleted_and_made_again_is_taken_up(town: Path, tmp_path: Path) -> None:
    users, items = ids_of(town)
    backfill = backfill_config(town, str(tmp_path / "out"))
    make_backfill(backfill, [(users[0], items[0])])
    read_through, watch, _ = watched(serve_config(town, explanations=str(tmp_path / "out")))
    shutil.rmtree(tmp_path / "out")
    make_backfill(backfill, [(users[0], items[0]), (users[1], items[1])])
    asyncio.run(watch.look())
    assert read_through.lookup is not None
    assert (read_through.lookup.num_rows, read_through.lookup.manifest.version) == (2, 0)
    shutil.rmtree(tmp_path / "out")
    asyncio.run(watch.look())
    assert read_through.lookup is None


def test_look_for_a_later_version_is_a_few_requests(
    town: Path, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, items = ids_of(town)
    uri = f"{s3.new_bucket()}/out"
    make_backfill(backfill_config(town, uri, storage=s3.storage), [(users[0], items[0])])
    read_through, watch, _ = watched(serve_config(town, explanations=uri, storage=s3.storage))
    first = read_through.lookup
    assert first is not None
    assert first.find(users[0], items[0]) is not None
    with monkeypatch.context() as patch:
        requests = requests_of(patch)
        asyncio.run(watch.look())
        assert len(requests) <= 2, requests
    assert read_through.lookup is first


class Version:
    """A lookup that explains every pair with one text, and calls `meanwhile` when it reads."""

    def __init__(self, text: str, meanwhile: Callable[[], None] = lambda: None):
        self._text, self._meanwhile = text, meanwhile
        self.num_bytes = 0

    def read_ahead(self) -> int:
        return 0

    def in_memory(self, user_id: str, item_id: str) -> tuple[bool, None]:
        return False, None

    def find(self, user_id: str, item_id: str) -> Explained:
        self._meanwhile()
        return Explained(self._text, 1, 1, "stop", "fingerprint", "written", ())


def test_request_is_answered_from_one_version_also_if_another_comes_meanwhile() -> None:
    read_through = ReadThrough(NoModel(), Recorder(FRONTEND), 2**20)  # type: ignore[arg-type]

    def swap() -> None:
        read_through.lookup = Version("the second")  # type: ignore[assignment]

    read_through.lookup = Version("the first", swap)  # type: ignore[assignment]
    pairs = [PairRequest(user_id="u", item_id=f"i{number}") for number in range(3)]
    for version in ("the first", "the second"):
        answers = asyncio.run(read_through.explain(pairs, None))
        assert [answer.explanation for answer in answers] == [version] * 3  # type: ignore[union-attr]


def test_backfill_whose_files_are_broken_or_gone_leaves_the_pair_to_the_model(
    town: Path, tmp_path: Path
) -> None:
    users, items = ids_of(town)
    for number, spoil in enumerate((lambda path: path.write_bytes(b"no parquet"), Path.unlink)):
        output = tmp_path / f"out-{number}"
        make_backfill(backfill_config(town, str(output)), [(users[0], items[0])])
        for path in output.glob("part-*.parquet"):
            spoil(path)
        read_through, _, _ = watched(serve_config(town, explanations=str(output)))
        assert (
            asyncio.run(
                read_through.known(
                    PairRequest(user_id=users[0], item_id=items[0]), None, read_through.lookup
                )
            )
            is None
        )


def test_backfill_of_another_model_is_refused_at_the_start_and_changes_nothing_later(
    town: Path, tmp_path: Path
) -> None:
    users, items = ids_of(town)
    other = backfill_config(town, str(tmp_path / "other"), adapter=str(town / "adapter-2"))
    make_backfill(other, [(users[0], items[0])])
    config = serve_config(town, explanations=str(tmp_path / "other"))
    theirs = read_manifest(open_location(str(town / "adapter-2")), "adapter").fingerprint
    with pytest.raises(
        ArtifactMismatchError,
        match=f"(?s)another model:.*adapter: '{theirs}' there.*serve the adapter that wrote",
    ):
        read_lookup(config, read_inputs(config).fingerprints)

    make_backfill(backfill_config(town, str(tmp_path / "out")), [(users[0], items[0])])
    read_through, watch, recorder = watched(serve_config(town, explanations=str(tmp_path / "out")))
    before = read_through.lookup
    other = backfill_config(town, str(tmp_path / "out"), adapter=str(town / "adapter-2"))
    make_backfill(other, [(users[0], items[0])])
    asyncio.run(watch.look())
    assert read_through.lookup is before
    assert 'xrec_serve_backfill_refreshes_total{outcome="refused"} 1.0' in recorder.text().decode()
