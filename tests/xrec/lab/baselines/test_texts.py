"""A peer's texts as a table like a backfill's, from a peer that was written without training."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.lab.baselines.conftest import NUM_USERS, MakePeerConfig
from xrec.backfill import read, read_explanations, read_failed
from xrec.config.baselines import PeerConfig
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.lab.baselines import peer_identity, plan_texts, publish_texts, write_peer_texts
from xrec.lab.baselines.artifact import read_peer, sizes_of, write_peer
from xrec.lab.baselines.batch import collate_pairs
from xrec.lab.baselines.build import build_peer
from xrec.lab.baselines.data import build_peer_data
from xrec.lab.baselines.words import END
from xrec.lab.baselines.write import write_greedily
from xrec.schemas import FAILED, GENERATED, PAIRS
from xrec.storage import Manifest, location_of

pytestmark = pytest.mark.usefixtures("actors_here")


@pytest.fixture
def config(make_config: MakePeerConfig) -> PeerConfig:
    return make_config(rows_per_chunk=4, texts_per_batch=3)


@pytest.fixture
def peer(config: PeerConfig, dataset: Dataset) -> Manifest:
    """An untrained peer at the config's place."""
    return write_untrained(config, dataset)


def write_untrained(config: PeerConfig, dataset: Dataset) -> Manifest:
    data = build_peer_data(config, dataset)
    model = build_peer(config, sizes_of(data))
    settings, inputs = peer_identity(config)
    return write_peer(
        location_of(config, "peer"),
        config,
        data,
        {name: each.detach() for name, each in model.named_parameters()},
        [],
        settings=settings,
        inputs=inputs,
        metrics={},
    )


def _written(uri: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["user_id"], row["item_id"]): row for row in read_explanations(uri).to_pylist()}


def test_texts_are_a_table_of_the_splits_pairs_that_readers_of_backfills_read(
    config: PeerConfig, dataset: Dataset, peer: Manifest
) -> None:
    manifest = write_peer_texts(config)
    table = read(config.artifact("explanations")).to_table()
    assert set(table.schema.names) > set(GENERATED.names)
    held_out = dataset.explained_pairs("test").to_pylist()
    pairs = {(f"u{row['user_index']}", f"i{row['item_index']}") for row in held_out}
    rows = _written(config.artifact("explanations"))
    assert set(rows) == pairs
    assert manifest.row_counts == {"explanations": 10, "failed": 0, "rejected": 0}
    assert manifest.kind == "explanations"
    assert manifest.metrics["pairs_per_second"] > 0
    for row in rows.values():
        assert row["model_fingerprint"] == peer.fingerprint
        assert (row["kind"], row["refused"], row["aspects"]) == ("written", "", [])


def test_texts_are_what_the_peer_writes_for_each_pair_alone(
    config: PeerConfig, dataset: Dataset, peer: Manifest
) -> None:
    write_peer_texts(config)
    trained = read_peer(location_of(config, "peer"))
    for (user, item), row in _written(config.artifact("explanations")).items():
        indices = [dataset.user_index(user)], [dataset.item_index(item)]
        (ids,) = write_greedily(
            trained.model,
            collate_pairs(*indices, [()]),
            end_ids=[END],
            never_written=trained.codec.never_written,
            max_tokens=trained.max_words,
        )
        assert row["explanation"] == trained.codec.decode(ids)
        has_ended = ids[-1] == END
        assert row["finish_reason"] == ("stop" if has_ended else "length")
        assert row["num_generated_tokens"] == len(ids) - has_ended


def test_texts_of_unknown_users_and_items_are_failed_rows(
    config: PeerConfig, peer: Manifest, tmp_path: Path
) -> None:
    ids = [("u0", "i3"), ("nobody", "i3"), ("u1", "nothing"), ("nobody", "nothing")]
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(dict(zip(PAIRS.names, zip(*ids, strict=True), strict=True))), table)
    with_table = config.model_copy(update={"pairs": str(table)})
    manifest = write_peer_texts(with_table)
    assert manifest.row_counts == {"explanations": 1, "failed": 3, "rejected": 0}
    assert manifest.metrics["failed_by_reason"] == {"unknown_user": 2, "unknown_item": 1}
    failed = read_failed(config.artifact("explanations")).to_table()
    assert set(failed.schema.names) > set(FAILED.names)
    row = next(row for row in failed.to_pylist() if row["user_id"] == "u1")
    assert (row["user_profile"], row["item_title"]) == ("Guest 1.", "")
    assert "'nothing'" in row["message"]


def test_texts_that_are_there_are_taken_and_those_of_another_run_take_their_place(
    config: PeerConfig, peer: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_peer_texts(config)

    def no_pool(*arguments: object, **more: object) -> None:
        raise AssertionError("actors were started")

    with monkeypatch.context() as patch:
        patch.setattr("xrec.lab.baselines.texts.RayPool", no_pool)
        assert write_peer_texts(config) == manifest
        assert publish_texts(plan_texts(config)) == manifest
    uri = config.artifact("explanations")
    assert write_peer_texts(config.model_copy(update={"max_pairs": 3})).version == 1
    assert (len(_written(uri)), read(uri, 0).count_rows()) == (3, 10)
    assert write_peer_texts(config).version == 2
    assert len(_written(uri)) == 10


def test_texts_of_some_pairs_are_drawn_by_hash_whatever_the_seed(
    config: PeerConfig, peer: Manifest, tmp_path: Path, dataset: Dataset
) -> None:
    drawn = []
    for seed in (0, 8):
        changes = {
            "seed": seed,
            "max_pairs": 4,
            "peer_model": str(tmp_path / f"model-{seed}"),
            "peer_texts": str(tmp_path / f"texts-{seed}"),
        }
        some = config.model_copy(update=changes)
        write_untrained(some, dataset)
        write_peer_texts(some)
        drawn.append(set(_written(some.artifact("explanations"))))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4 < NUM_USERS


def test_texts_without_a_peer_or_without_pairs_are_refused(
    config: PeerConfig, make_config: MakePeerConfig, peer: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactNotFoundError, match="run xrec peer first"):
        write_peer_texts(make_config(peer_model=str(tmp_path / "none")))
    empty = tmp_path / "empty.parquet"
    pq.write_table(PAIRS.empty_table(), empty)
    with pytest.raises(DataError):
        write_peer_texts(config.model_copy(update={"pairs": str(empty)}))


def test_peer_that_was_changed_is_refused(config: PeerConfig, peer: Manifest) -> None:
    weights = location_of(config, "peer") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactMismatchError, match="not what the manifest says"):
        read_peer(location_of(config, "peer"))
