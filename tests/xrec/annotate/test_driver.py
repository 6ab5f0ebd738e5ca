"""Whole runs: what is written, held out, retried and carried; texts that solicit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.shop import review, write_json_lines
from tests.xrec.annotate.review_files import (
    HASHED,
    SecretTown,
    annotate,
    annotate_config,
    dataset_tables,
    secret_of,
    texts_of_training,
)
from xrec.annotate.annotator import (
    AnnotatorSpec,
    Aspect,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    ReviewedItem,
    Text,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.formats import KEYS, stage_format
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import read_annotations
from xrec.annotate.task import TextTask
from xrec.bulk import Outcome
from xrec.config import AnnotateConfig
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    DataError,
    Failure,
)
from xrec.storage import Manifest

pytestmark = pytest.mark.usefixtures("actor_here")

TOWN = SecretTown(
    "The {secret} is great. I love its {secret}, which is a warm sound. It has a great tone.",
    num_users=8,
    reviews_per_user=4,
    num_items=5,
)
REFUSED = "refused"


class Quoting:
    """An annotator that writes all that it is shown, so that a leak shows; and its runs.

    All runs are over the same file of reviews. A review with the word `refuse` fails unless the
    file `fixed` exists. One with the word `blame` has negative aspects and no explanation.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, rows: Sequence[Input]) -> Written:
        return Written([self._text(row) for row in rows], {"asked": len(rows)})

    def _text(self, row: Input) -> Text | Failure:
        ids = [getattr(row, name) for name in ("user_id", "item_id") if hasattr(row, name)]
        with (self.folder / "asked").open("a") as file:
            file.write(" ".join(ids) + "\n")
        match row:
            case ItemInput():
                texts = (each.review for each in row.reviews)
                return ItemText(row.title or row.item_id, " ".join(texts))
            case UserInput():
                return UserText(" ".join(_shown(each.review, each.item) for each in row.reviews))
            case PairInput():
                return self._pair(row)

    def _pair(self, row: PairInput) -> PairText | Failure:
        """Return the review as explanation, and each of its words as an aspect."""
        if "refuse" in row.review.review and not (self.folder / "fixed").exists():
            return Failure(REFUSED, "as asked", reply=f"reply to {row.user_id}")
        words = dict.fromkeys(row.review.review.lower().replace(".", "").split())
        if "blame" in words:
            return PairText("", tuple(Aspect(word, "", "negative") for word in words))
        aspects = tuple(Aspect(word, "", "positive") for word in words)
        return PairText(_shown(row.review, row.item), aspects)

    def config(self, *rows: dict[str, Any], name: str = "ws", **values: Any) -> AnnotateConfig:
        """Write the reviews, if any are given, and return a config for the file."""
        path = self.folder / "raw" / "reviews.jsonl"
        if rows:
            write_json_lines(path, rows)
        return annotate_config(self.folder / name, path.parent, **values)

    def spec(self, **changes: Any) -> AnnotatorSpec:
        spec = AnnotatorSpec({"kind": "quoting"}, {}, (REFUSED,), lambda *where: self, folds=0)
        return replace(spec, **changes)

    def run(self, config: AnnotateConfig, **spec: Any) -> Manifest:
        manifest = annotate(config, self.spec(**spec))
        assert manifest is not None
        return manifest

    def asked(self) -> Counter[str]:
        """Return the IDs of the rows that were asked since the last call."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return Counter(lines)


def _shown(review: Review, item: ItemText | None) -> str:
    return f"{review.review} {item.profile if item else ''}"


@pytest.fixture
def quoting(tmp_path):
    return Quoting(tmp_path)


def _values(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("kind", "folds"),
    [
        ("phrases", None),
        ("quoting", 2),
        pytest.param("quoting", 100, marks=pytest.mark.slow),
    ],
)
def test_run_keeps_held_out_and_own_reviews_out_of_training(tmp_path, quoting, kind, folds):
    """Every secret may be an aspect, so only leaving its review out keeps it away."""
    held_out, others = TOWN.secrets(held_out=True), TOWN.secrets(held_out=False)
    config = annotate_config(
        tmp_path / "ws",
        TOWN.write(tmp_path / "raw" / "reviews.jsonl"),
        annotator={"kind": "phrases"},
        vocabulary={"min_reviews": 1, "add": [*others, *held_out]},
        rows_per_chunk=16,
    )
    of_phrases = phrases_spec(config.annotator, config.vocabulary)
    spec = of_phrases if kind == "phrases" else quoting.spec()
    assert annotate(config, replace(spec, folds=folds)) is not None
    tables = dataset_tables(config)
    training = texts_of_training(tables)
    assert sum(secret in training for secret in others) > 10
    assert [secret for secret in held_out if secret in training] == []
    if kind == "quoting":  # held-out reviews are still known as references
        explanations = tables["explanations"].to_pylist()
        references = " ".join(row["explanation"] for row in explanations if row["split"] != "train")
        assert all(secret in references for secret in held_out)
    rows, num_with_others = tables["training_profiles"].to_pylist(), 0
    for row in rows:
        user = tables["users"]["user_id"][row["user_index"]].as_py()
        item = tables["items"]["item_id"][row["item_index"]].as_py()
        shown = f"{row['user_profile']} {row['item_profile']}".lower()
        assert not any(each in shown for each in (secret_of(user, item), *held_out))
        num_with_others += any(each in shown for each in others)
    assert len(rows) == len(others)
    assert num_with_others > len(rows) / 2  # other reviews are in it


def test_run_counts_reviews_without_praise_and_low_rated_ones_in_aspects_only(quoting):
    """A review without praise is also an interaction; a low-rated one is a dislike."""
    config = quoting.config(
        review("a", "1", "warm loud", time=1),
        review("a", "2", "warm", time=2),
        review("b", "1", "warm loud", time=1),
        review("d", "2", "blame warm", time=1),
        review("e", "1", f"loud < {'and louder ' * 9}loudest", time=1),
        review("c", "1", "blame loud odd", time=1, rating=1),
        review("b", "2", "warm too", time=2, rating=2),
    )
    manifest = quoting.run(config)
    tables = dataset_tables(config)
    assert "training_profiles" not in tables  # there are no folds
    counts = {name: manifest.row_counts[name] for name in ("reviews", "pairs", "explanations")}
    assert counts == {"reviews": 5, "pairs": 7, "explanations": 4}
    assert manifest.metrics["num_low_rated"] == 2
    assert manifest.metrics["pairs_without_praise"] == pytest.approx(1 / 5)
    assert tables["users"]["user_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert _values(tables["dislikes"]) == [(1, 1), (2, 0)]  # c likes nothing and is in no table
    assert (tables["interactions"].num_rows, tables["explanations"].num_rows) == (5, 4)
    assert {"odd", "too"}.isdisjoint(texts_of_training(tables).split())
    assert _values(tables["aspects"]) == [(0, "warm", 4, 3, 1), (1, "loud", 3, 3, 0)]
    found = _values(tables["low_rated_aspects"])
    assert found == [(0, 1, 1, 0, 1), (1, 0, 1, 1, 0)]  # of item 1 and loud, of item 2 and warm
    page = (quoting.folder / "ws" / "annotations" / "report.html").read_text()
    assert "<td>blame warm</td>" in page
    assert f"<td>loud &lt; {'and louder ' * 9}loudest</td>" in page  # whole, and as text


_ENGLISH = {"min_reviews": 2, "synonyms": {"loud": "noise", "values": None}, "add": ["glows"]}


@pytest.mark.parametrize(
    ("language", "vocabulary", "texts", "expected"),
    [
        # One training review alone has warmth, and one has glow, which was added by name.
        (
            *("English", _ENGLISH),
            ("tone value loud warmth glow", "Tones values noise", "Values tone Louds warmth Glow"),
            {"tone", "noise", "glow"},
        ),
        ("German", {"min_reviews": 1}, ("glas", "Glas", "Glas!"), {"glas"}),
    ],
)
def test_run_limits_aspects_to_the_vocabulary_in_held_out_reviews_too(
    quoting, language, vocabulary, texts, expected
):
    rows = [review("u", f"i{n}", text, time=n) for n, text in enumerate([*texts, texts[-1]])]
    # The items of held-out reviews have no profiles.
    config = quoting.config(*rows, vocabulary=vocabulary, max_failed_share=1)
    quoting.run(config, settings={"kind": "quoting", "language": language})
    aspects = read_annotations(config.artifact("annotations"), config.storage)["aspects"]
    found = zip(aspects["split"].to_pylist(), aspects["aspect"].to_pylist(), strict=True)
    splits = ("train", "validation", "test")
    assert {*found} == {(split, name) for split in splits for name in expected}


def test_run_counts_failed_texts_by_reason_and_retries_them(quoting):
    texts = {"a": "refuse this", "b": "warm", "c": "", "d": "loud"}
    rows = [review(user, "1", text) for user, text in texts.items()]
    config = quoting.config(*rows, split=HASHED)
    manifest = quoting.run(config)
    assert manifest.metrics["failed"]["pairs"] == {REFUSED: 1, "empty_review": 1}
    tables = read_annotations(config.artifact("annotations"), config.storage)
    assert (tables["interactions"].num_rows, tables["explanations"].num_rows) == (4, 2)
    (quoting.folder / "fixed").touch()
    retried = quoting.run(config.model_copy(update={"retry_failed": (REFUSED,)}))
    assert retried.metrics["failed"]["pairs"] == {"empty_review": 1}
    assert retried.fingerprint != manifest.fingerprint  # so that the dataset is made again
    once = ("1", *texts, "b 1", "d 1")
    assert quoting.asked() == {**dict.fromkeys(once, 1), "a 1": 2}


def test_run_carries_texts_while_inputs_and_what_was_learned_stay_the_same(quoting):
    def run(learned: str, *rows: dict[str, Any], **values: Any) -> AnnotateConfig:
        config = quoting.config(*rows, name=learned, split=HASHED, **values)
        quoting.asked()
        quoting.run(config, learned=lambda output: learned.partition(" ")[0])
        return config

    rows = [review("a", "1", "warm"), review("b", "2", "loud")]
    carry_from = run("this", *rows).artifact("annotations")
    run("this again", *rows, review("c", "2", "new"), carry_from=carry_from)
    # The new review changes item 2, and therefore the user who reviewed it.
    assert quoting.asked().keys() == {"2", "b", "c", "b 2", "c 2"}
    run("that", *rows, carry_from=carry_from)
    assert quoting.asked().total() == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ([("f", "warm")], None),  # a sixth of the reviews says something unknown
        ([("f", "warm"), ("g", "warm"), ("h", "loud")], "drift"),
        ([("a", None), ("f", "warm")], "reviews"),  # a text that nobody wrote must not stay
        ([("a", "loud")], "reviews"),
    ],
)
def test_run_carries_a_profile_until_what_its_reviews_say_drifts(quoting, change, reason):
    def run(name: str, texts: dict[str, str], **values: Any) -> tuple[AnnotateConfig, Manifest]:
        rows = [review(user, "1", text) for user, text in texts.items() if text]
        config = quoting.config(*rows, name=name, split=HASHED, **values)
        quoting.asked()
        return config, quoting.run(config, folds=2, drift=0.3)

    texts = dict.fromkeys("abcde", "warm")
    before, _ = run("0", texts)
    now, manifest = run("1", texts | dict(change), carry_from=before.artifact("annotations"))
    assert ("1" in quoting.asked()) == (reason is not None)
    assert manifest.metrics["written_again"]["items"] == ({reason: 1} if reason else {})
    assert manifest.metrics["carried"]["items"] == (reason is None)
    if reason is None:  # compared with what the profile was written from, not with the last night
        more = texts | dict(change) | {"g": "warm"}
        later, _ = run("2", more, carry_from=now.artifact("annotations"))
        assert quoting.asked().keys() == {"g", "g 1"}
        loud = dict.fromkeys("ijkl", "loud")
        run("3", more | loud, carry_from=later.artifact("annotations"))
        assert "1" in quoting.asked()


def test_run_with_wrong_or_changed_settings_is_refused(quoting):
    config = quoting.config(review("a", "1", "warm"), split=HASHED)
    quoting.run(config)
    for changes, error, code, key in (
        ({"retry_failed": ("nonsense",)}, ConfigError, "unknown_reason", "retry_failed"),
        ({"carry_from": "/nowhere"}, ArtifactNotFoundError, "no_artifact", None),
    ):
        with raises(error, code, key):
            quoting.run(config.model_copy(update=changes))
    with pytest.raises(ArtifactMismatchError, match="min_rating"):
        quoting.run(config.model_copy(update={"min_rating": 3.0}))


def test_run_with_too_many_rejected_rows_raises_and_writes_nothing(quoting):
    config = quoting.config(review("a", "1"), review("b", "1", time="a long time ago"))
    with raises(DataError, "too_many_rejected", "reviews.jsonl", 1):
        quoting.run(config)
    assert not (quoting.folder / "ws" / "annotations" / "reviews").exists()


def test_run_on_a_bucket_gives_the_same_texts_as_on_a_disk(tmp_path, s3, bucket):
    path = replace(TOWN, num_users=3).write(tmp_path / "reviews.jsonl")
    found = []
    for place, storage in ((tmp_path, {}), (f"{bucket}/annotate", {"storage": s3.storage})):
        config = annotate_config(place, path, vocabulary={"add": ["tone"]}, **storage)
        assert annotate(config, phrases_spec(config.annotator, config.vocabulary)) is not None
        tables = read_annotations(config.artifact("annotations"), config.storage)
        found.append({name: sorted(map(str, table.to_pylist())) for name, table in tables.items()})
    assert found[0] == found[1]
    assert found[0]["aspects"]


_REVIEW = Review("u", "i", "It is calm.")
_TITLE = "Books.com"
_ITEM = ItemInput("i", _TITLE, "", (_REVIEW,), 1)
_REVIEWED = (ReviewedItem(_REVIEW, ItemText(_TITLE, "")), ReviewedItem(_REVIEW, None))
_USER = UserInput("u", _REVIEWED, 2)
_PAIR = PairInput("u", "i", _REVIEW, ItemText(_TITLE, ""), "train")
_CALM, _TEA = Aspect("calm", "", "positive"), Aspect("tea", "hot", "positive")
# The third opinion is from a review from which something was removed.
_SPOILED = [
    replace(_CALM, opinion=words)
    for words in ("mail maria@x.org", "order now", "calm [\u2026] place")
]


def _done(row: Input, text: Text) -> Outcome:
    stages = {ItemInput: "items", UserInput: "users", PairInput: "pairs"}
    stage = stages[type(row)]
    says = SimpleNamespace(write=lambda rows: Written([text]))
    task = TextTask(lambda rows: [row], says, stage_format(stage, ()), "", 0)
    return task.do(pa.table({key: [getattr(row, key)] for key in KEYS[stage]}))


@pytest.mark.parametrize(
    ("row", "text", "kept", "num_removed"),
    [
        (_ITEM, ItemText(_TITLE, "Calm."), {"title": _TITLE, "profile": "Calm."}, 0),
        (
            replace(_ITEM, title=""),
            ItemText("Shop evil.com", "Calm.", title_is_made=True),
            {"title": "", "profile": "Calm."},
            1,
        ),
        (
            _USER,
            UserText("Enjoyed Books.com. Ask for Maria."),
            {"profile": "Enjoyed Books.com."},
            1,
        ),
        (
            _PAIR,
            PairText("It is calm. Ask for Maria. It is near Books.com.", ()),
            {"explanation": "It is calm. It is near Books.com."},
            1,
        ),
        (
            _PAIR,
            PairText("", (*_SPOILED, _TEA, replace(_TEA, aspect="x@y.org"))),
            {"aspects": [asdict(_CALM)] * 3 + [asdict(_TEA)]},
            4,
        ),
        (
            replace(_PAIR, split="low_rated"),
            PairText("Ask for Maria.", (_TEA,)),
            {"explanation": "", "aspects": [asdict(_TEA)]},
            1,
        ),
    ],
)
def test_text_loses_what_solicits_except_titles_of_the_source(row, text, kept, num_removed):
    done = _done(row, text)
    assert {name: done.ok[name][0].as_py() for name in kept} == kept
    assert done.costs["personal_removed"] == num_removed


def test_explanation_that_only_solicits_fails():
    (failed,) = _done(_PAIR, PairText("Ask for Maria.", (_TEA,))).failed.to_pylist()
    assert (failed["reason"], failed["reply"]) == ("solicits", "Ask for Maria.")
