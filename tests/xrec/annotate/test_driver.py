"""Whole runs: what is written, what is held out of it, and how a run goes on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.object_store import ObjectStore
from tests.xrec.annotate.review_files import annotate_config, review, write_json_lines
from tests.xrec.annotate.toy_annotator import REFUSED, quoting_spec
from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.driver import run_annotate
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import read_annotations
from xrec.annotate.store import keep_source
from xrec.config.annotate import AnnotateConfig
from xrec.config.data import SplitShares
from xrec.config.shared import StorageConfig
from xrec.data.assemble import assemble
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
)
from xrec.storage import Location, Manifest

pytestmark = pytest.mark.usefixtures("actor_here")

NUM_USERS, REVIEWS_PER_USER, NUM_ITEMS = 12, 5, 7


def _secret(user: int, item: int) -> str:
    """A word of one review only, which no lexicon knows."""
    return f"zqu{chr(97 + user)}v{chr(97 + item)}x"


def _town(tmp_path: Path, **more: Any) -> Path:
    """Reviews in which the last but one and the last of each user are held out by time."""
    rows = [
        review(
            f"u{user}",
            f"i{(user + 2 * number) % NUM_ITEMS}",
            f"The {_secret(user, number)} tone is great. I love the warm sound, "
            f"and {_secret(user, number)} is a great feature.",
            summary=f"Great {_secret(user, number)}",
            time=number,
            **more,
        )
        for user in range(NUM_USERS)
        for number in range(REVIEWS_PER_USER)
    ]
    return write_json_lines(tmp_path / "raw" / "reviews.jsonl", rows)


def _held_out_secrets() -> set[str]:
    last = range(REVIEWS_PER_USER - 2, REVIEWS_PER_USER)
    return {_secret(user, number) for user in range(NUM_USERS) for number in last}


def _run(config: AnnotateConfig, spec: AnnotatorSpec) -> Manifest | None:
    return run_annotate(config, spec, keep_source(config, spec))


def _phrases(config: AnnotateConfig, tmp_path: Path) -> AnnotatorSpec:
    return phrases_spec(config.annotator)


def _quoting(config: AnnotateConfig, tmp_path: Path) -> AnnotatorSpec:
    return quoting_spec(tmp_path)


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def _made_dataset(
    tmp_path: Path, rows: Sequence[dict[str, Any]]
) -> tuple[Manifest, Mapping[str, pa.Table]]:
    """The annotations that quote these reviews, and the tables of the dataset made of them."""
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    config = annotate_config(tmp_path / "ws", path)
    manifest = _run(config, quoting_spec(tmp_path))
    assert manifest is not None
    source = read_annotations(config.artifact("annotations"), StorageConfig())
    return manifest, assemble(source, SplitShares()).tables


@pytest.mark.parametrize("make_spec", [_phrases, _quoting], ids=["phrases", "quoting"])
def test_run_no_word_of_a_held_out_review_is_in_any_text_of_training(
    tmp_path: Path, make_spec: Callable[[AnnotateConfig, Path], AnnotatorSpec]
) -> None:
    # Every word is frequent enough to be an aspect, so that only the split keeps them apart.
    annotator = {"kind": "phrases", "min_reviews": 1, "max_share": 1}
    config = annotate_config(
        tmp_path / "ws",
        _town(tmp_path),
        annotator=annotator,
        vocabulary={"min_reviews": 1},
        rows_per_chunk=4,
    )
    assert _run(config, make_spec(config, tmp_path)) is not None
    source = read_annotations(config.artifact("annotations"), StorageConfig())
    dataset = assemble(source, SplitShares()).tables
    explanations = dataset["explanations"].to_pylist()
    references = " ".join(row["explanation"] for row in explanations if row["split"] != "train")
    training = " ".join(
        [
            *dataset["users"]["profile"].to_pylist(),
            *dataset["items"]["profile"].to_pylist(),
            *dataset["items"]["title"].to_pylist(),
            *dataset["aspects"]["aspect"].to_pylist(),
            *(row["explanation"] for row in explanations if row["split"] == "train"),
        ]
    ).lower()
    secrets = {
        _secret(user, number) for user in range(NUM_USERS) for number in range(REVIEWS_PER_USER)
    }
    held_out = _held_out_secrets()
    assert sum(secret in training for secret in secrets - held_out) > 10  # it would be seen
    assert [secret for secret in held_out if secret in training] == []
    if make_spec is _quoting:  # what is held out is nevertheless known as a reference
        assert all(secret in references for secret in held_out)


def test_run_dataset_has_texts_splits_and_counts_of_aspects(tmp_path: Path) -> None:
    rows = [
        review("a", "1", "warm loud", time=1),
        review("a", "2", "warm", time=2, rating=4.5),
        review("a", "3", "Warms", time=3),
        review("a", "4", "warm cold", time=4),
        review("b", "1", "warm loud", time=1),
    ]
    _, tables = _made_dataset(tmp_path, rows)
    assert tables["users"]["profile"].to_pylist()[1] == "warm loud warm loud warm loud"
    ratings = _rows(tables["ratings"])  # of training explanations alone
    assert ratings == [(0, 0, 5.0), (0, 1, 4.5), (1, 0, 5.0)]
    splits = Counter(tables["interactions"]["split"].to_pylist())
    assert splits == {"train": 3, "validation": 1, "test": 1}
    assert _rows(tables["aspects"]) == [(0, "warm", 3, 3, 0), (1, "loud", 2, 2, 0)]
    of_user = {row[:2]: row[2] for row in _rows(tables["user_aspects"])}
    assert of_user == {(0, 0): 2, (0, 1): 1, (1, 0): 1, (1, 1): 1}
    of_item = {row[:2]: row[2] for row in _rows(tables["item_aspects"])}
    assert of_item == {(0, 0): 2, (0, 1): 2, (1, 0): 1}
    named = [
        (row["item_index"], row["aspect_index"], row["split"])
        for row in tables["explanation_aspects"].to_pylist()
        if row["user_index"] == 0
    ]
    # "Warms" is the same aspect in the plural; "cold" is in no training review.
    assert named == [
        (0, 0, "train"),
        (0, 1, "train"),
        (1, 0, "train"),
        (2, 0, "validation"),
        (3, 0, "test"),
    ]


def test_run_pair_whose_review_praises_nothing_has_aspects_and_no_explanation(
    tmp_path: Path,
) -> None:
    rows = [
        review("a", "1", "warm", time=1),
        review("a", "2", "blame warm", time=2),
        review("b", "1", f"loud < {'and louder ' * 9}loudest", time=1),
    ]
    manifest, tables = _made_dataset(tmp_path, rows)
    counts = {name: manifest.row_counts[name] for name in ("reviews", "pairs", "explanations")}
    assert counts == {"reviews": 3, "pairs": 3, "explanations": 2}
    assert manifest.metrics["pairs_without_praise"] == pytest.approx(1 / 3)
    assert tables["interactions"].num_rows == 3
    assert tables["explanations"].num_rows == 2
    page = (tmp_path / "ws" / "annotations" / "report.html").read_text()
    assert "<td>blame warm</td>" in page
    assert f"<td>loud &lt; {'and louder ' * 9}loudest</td>" in page  # whole, and as text
    (warm,) = [row for row in tables["aspects"].to_pylist() if row["aspect"] == "warm"]
    assert (warm["num_reviews"], warm["num_positive"], warm["num_negative"]) == (2, 1, 1)


def test_run_low_rated_reviews_count_against_their_items_and_are_in_nothing_else(
    tmp_path: Path,
) -> None:
    rows = [
        review("a", "1", "warm loud", time=1),
        review("a", "2", "warm", time=2),
        review("b", "1", "warm loud", time=1),
        review("c", "1", "blame loud odd", time=1, rating=1),
        review("b", "2", "warm too", time=2, rating=2),
    ]
    manifest, tables = _made_dataset(tmp_path, rows)
    counts = {name: manifest.row_counts[name] for name in ("reviews", "pairs", "explanations")}
    assert counts == {"reviews": 3, "pairs": 5, "explanations": 3}
    assert manifest.metrics["num_low_rated"] == 2
    assert tables["users"]["user_id"].to_pylist() == ["a", "b"]
    assert tables["interactions"].num_rows == tables["explanations"].num_rows == 3
    texts = [*tables["items"]["profile"].to_pylist(), *tables["users"]["profile"].to_pylist()]
    assert not any("odd" in text or "too" in text for text in texts)
    names = tables["aspects"]["aspect"].to_pylist()
    assert names == ["warm", "loud"]
    assert tables["aspects"]["num_reviews"].to_pylist() == [3, 2]
    found = {
        (row["item_index"], names[row["aspect_index"]]): (row["num_positive"], row["num_negative"])
        for row in tables["low_rated_aspects"].to_pylist()
    }
    assert found == {(0, "loud"): (0, 1), (1, "warm"): (1, 0)}


def test_run_failed_texts_have_reason_and_reply_and_can_be_retried(tmp_path: Path) -> None:
    rows = [review("a", "1", "refuse this"), review("b", "1", "warm"), review("c", "2", "warm")]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    hashed = {"by": "hash", "test": 0, "validation": 0}
    config = annotate_config(tmp_path / "ws", path, split=hashed)
    manifest = _run(config, quoting_spec(tmp_path))
    assert manifest is not None
    assert manifest.metrics["failed"]["pairs"] == {REFUSED: 1}
    (tmp_path / "mended").touch()
    retried = _run(config.model_copy(update={"retry_failed": (REFUSED,)}), quoting_spec(tmp_path))
    assert retried is not None
    assert retried.metrics["failed"]["pairs"] == {}
    assert retried.fingerprint != manifest.fingerprint  # so that the dataset is made again
    asked = Counter((tmp_path / "asked").read_text().splitlines())
    assert asked == {
        "item 1": 1,
        "item 2": 1,
        "user a": 1,
        "user b": 1,
        "user c": 1,
        "pair a 1": 2,
        "pair b 1": 1,
        "pair c 2": 1,
    }
    with pytest.raises(ConfigError, match="retry_failed: nonsense: expected all, or some of"):
        _run(config.model_copy(update={"retry_failed": ("nonsense",)}), quoting_spec(tmp_path))


def test_run_carries_texts_whose_inputs_are_the_same(tmp_path: Path) -> None:
    hashed = {"by": "hash", "test": 0, "validation": 0}
    rows = [review("a", "1", "warm"), review("b", "2", "loud")]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    first = annotate_config(tmp_path / "ws", path, split=hashed)
    assert _run(first, quoting_spec(tmp_path)) is not None
    (tmp_path / "asked").unlink()
    write_json_lines(path, [*rows, review("c", "2", "new")])
    second = annotate_config(
        tmp_path / "ws2", path, split=hashed, carry_from=first.artifact("annotations")
    )
    assert _run(second, quoting_spec(tmp_path)) is not None
    # The new review changes item 2, and so the user who reviewed it; a and their pair stay.
    assert set((tmp_path / "asked").read_text().splitlines()) == {
        "item 2",
        "user b",
        "user c",
        "pair b 2",
        "pair c 2",
    }
    carry_from = str(tmp_path / "nowhere")
    nowhere = annotate_config(tmp_path / "ws3", path, split=hashed, carry_from=carry_from)
    with pytest.raises(ArtifactNotFoundError, match=r"carry_from: .*nowhere: there are no annot"):
        _run(nowhere, quoting_spec(tmp_path))
    with pytest.raises(ArtifactMismatchError, match="min_rating"):  # the same place, other settings
        _run(first.model_copy(update={"min_rating": 3.0}), quoting_spec(tmp_path))


def test_run_carries_no_text_of_an_annotator_that_had_learned_something_else(
    tmp_path: Path,
) -> None:
    hashed = {"by": "hash", "test": 0, "validation": 0}
    path = write_json_lines(tmp_path / "reviews.jsonl", [review("a", "1", "warm")])
    first = annotate_config(tmp_path / "ws", path, split=hashed)
    assert _run(first, quoting_spec(tmp_path, learned=_learned_this)) is not None
    for name, learned, num_asked in (("same", _learned_this, 0), ("other", _learned_that, 3)):
        (tmp_path / "asked").write_text("")
        carry_from = first.artifact("annotations")
        config = annotate_config(tmp_path / name, path, split=hashed, carry_from=carry_from)
        assert _run(config, quoting_spec(tmp_path, learned=learned)) is not None
        assert len((tmp_path / "asked").read_text().splitlines()) == num_asked


def _learned_this(output: Location) -> str:
    return "this"


def _learned_that(output: Location) -> str:
    return "that"


def test_run_too_many_rejected_rows_are_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    rows = [review("a", "1"), review("b", "1", time="a long time ago")]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    config = annotate_config(tmp_path / "ws", path)
    with pytest.raises(DataError, match="1 of 2 rows are unusable") as raised:
        _run(config, quoting_spec(tmp_path))
    assert "time must be a number or a date" in str(raised.value)
    assert not (tmp_path / "ws" / "annotations" / "reviews").exists()


def test_run_of_empty_reviews_counts_them_and_keeps_the_interactions(tmp_path: Path) -> None:
    rows = [review("a", "1", ""), review("b", "1", "warm"), review("c", "1", "loud")]
    path = write_json_lines(tmp_path / "reviews.jsonl", rows)
    hashed = {"by": "hash", "test": 0, "validation": 0}
    manifest = _run(annotate_config(tmp_path / "ws", path, split=hashed), quoting_spec(tmp_path))
    assert manifest is not None
    assert manifest.metrics["failed"]["pairs"] == {"empty_review": 1}
    source = read_annotations(str(tmp_path / "ws" / "annotations"), StorageConfig())
    assert (source.interactions.num_rows, source.explanations.num_rows) == (3, 2)


def test_run_personal_data_that_an_annotator_writes_is_removed_and_counted(tmp_path: Path) -> None:
    # The quoting annotator writes the title, which the source gives as it is.
    write_json_lines(tmp_path / "raw" / "reviews.jsonl", [review("a", "1", "warm")])
    write_json_lines(
        tmp_path / "raw" / "items.jsonl", [{"item_id": "1", "title": "Drum www.drum.org"}]
    )
    hashed = {"by": "hash", "test": 0, "validation": 0}
    config = annotate_config(tmp_path / "ws", tmp_path / "raw", split=hashed)
    manifest = _run(config, quoting_spec(tmp_path))
    assert manifest is not None
    assert manifest.metrics["costs"]["personal_removed"] == 1
    source = read_annotations(config.artifact("annotations"), StorageConfig())
    assert source.items["title"].to_pylist() == ["Drum"]


def test_run_on_a_bucket_gives_the_same_texts_as_on_a_disk(tmp_path: Path, s3: ObjectStore) -> None:
    path = _town(tmp_path)
    on_disk = annotate_config(tmp_path / "ws", path)
    on_s3 = annotate_config(f"{s3.new_bucket()}/ws", path, storage=s3.storage)
    storage = {str(on_disk.workspace): StorageConfig(), str(on_s3.workspace): s3.storage}
    found = []
    for config in (on_disk, on_s3):
        assert _run(config, phrases_spec(config.annotator)) is not None
        source = read_annotations(config.artifact("annotations"), storage[config.workspace])
        found.append((source.users, source.items, source.explanations, source.aspects))
    assert found[0][:3] == found[1][:3]
    rows = [sorted(map(str, each[3].to_pylist())) for each in found]
    assert rows[0] == rows[1]
