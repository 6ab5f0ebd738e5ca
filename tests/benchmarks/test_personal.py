"""The benchmark of personal texts: what is compared, its figures and files, and likelihoods."""

import numpy as np
import pytest

from benchmarks.personal import app
from benchmarks.personal_data import (
    MATCHED,
    NDCG_GAIN,
    RECALL,
    Pairs,
    Yardstick,
    matched,
    read_texts,
)
from benchmarks.personal_likelihood import aspect_tokens, load_model_of, weigh
from benchmarks.personal_report import Measure, differences, figures, wide
from tests.errors import raises
from tests.world.models import explanation_nll
from tests.world.shop import write_json_lines
from xrec.adapter.pairs import Pair
from xrec.checks import AspectNames
from xrec.config import LLMConfig
from xrec.data.dataset import HeldOutPair, open_dataset
from xrec.errors import DataError

NAN = float("nan")
PAIRS = Pairs(
    (
        HeldOutPair("ann", "inn", 0, 0, "quiet garden"),
        HeldOutPair("ben", "inn", 1, 0, "cheap beer"),
        HeldOutPair("cid", "pub", 2, 1, "loud music"),
        HeldOutPair("dan", "inn", 3, 0, "fresh bread"),
    ),
    titles=("Inn", "Inn", "Pub", "Inn"),
    profiles=("garden", "garden", "music", "garden"),
)


def test_couples_are_matched_by_the_larger_sum_with_ties_half_and_missing_left_out():
    similarities = np.array(
        [[0.6, 0.5, 0.0, 0.2], [0.2, 0.2, 0, 0.3], [0, 0, 0, 0], [NAN, NAN, NAN, NAN]]
    )
    couples = np.array([[0, 1], [1, 0], [0, 3]])
    assert matched(similarities, couples) == pytest.approx([1, 1, NAN], nan_ok=True)
    assert matched(np.array([[0.5, 0.5], [0.2, 0.2]]), couples[:1]).tolist() == [0.5]
    assert matched(np.array([[0.1, 0.5], [0.2, 0.2]]), couples[:1]).tolist() == [0]


def test_measured_couples_gain_what_texts_name_of_their_own_reference_above_the_others():
    finder = AspectNames(["garden", "beer", "bread"])
    texts = ("garden and bread", "bread", "", None)
    # Ann's names hers first (1) and not Ben's (0); Ben's names neither. Dan has no text.
    found = Yardstick(PAIRS, finder).of_couples(texts)[NDCG_GAIN]
    assert found == pytest.approx([0.5, NAN, NAN], nan_ok=True)


def test_measure_averages_the_seeds_that_have_a_value_and_clusters_by_groups():
    measure = Measure(np.array([[0.0, 1, NAN, NAN], [1, 1, NAN, 0]]), ["a", "a", "b", "c"])
    record = measure.record()
    assert record["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert record["count"] == 3
    assert record["by_seed"] == [0.5, pytest.approx(2 / 3)]
    # Users a and c: residuals of 1/6 and -1/6 are a standard error of 1/3, and t is 12.706.
    assert (record["low"], record["high"]) == pytest.approx((0.5 - 4.2354, 0.5 + 4.2354), abs=1e-3)


def test_difference_of_two_measures_is_of_the_pairs_that_both_have():
    users = ["a", "b", "c"]
    own = Measure(np.array([[1, 1, NAN], [1, 0, 1]]), users)
    other = Measure(np.array([[0, NAN, 1]]), users)
    measures = {"ours": {"m": own}, "theirs": {"m": other}}
    (row,) = differences(measures, ["theirs"])
    assert row["contestant"] == "ours minus theirs"
    assert (row["value"], row["count"]) == (0.5, 2)  # a: 1, c: 0 of the second seed
    assert row["by_seed"] == [1, 0.5]
    shown = wide(figures(measures))[1]
    assert shown["m"].startswith("0.5000 (")
    assert shown["count"] == 2


def test_run_of_json_lines_takes_the_column_named_and_leaves_out_null(tmp_path):
    rows = [
        {"uid": "ben", "iid": "inn", "theirs": "beer", "ours": None},
        {"uid": "ann", "iid": "inn", "theirs": "garden", "ours": "a garden"},
    ]
    path = write_json_lines(tmp_path / "peers.jsonl", rows)
    assert read_texts(f"{path}#theirs", PAIRS) == ("garden", "beer", None, None)
    assert read_texts(f"{path}#ours", PAIRS) == ("a garden", None, None, None)
    with raises(DataError, "missing_column", key="text", saw=["uid", "iid", "theirs", "ours"]):
        read_texts(str(path), PAIRS)


def test_texts_command_writes_the_figures_and_differences_of_each_contestant(
    workspace, run, tmp_path
):
    dataset = open_dataset(str(workspace / "dataset"))
    pairs = Pairs.of(dataset, ["test"]).pairs
    rows = [{"uid": each.user_id, "iid": each.item_id, "text": each.reference} for each in pairs]
    own = write_json_lines(tmp_path / "own.jsonl", rows[1:])
    vocabulary = tmp_path / "aspects.txt"
    vocabulary.write_text("\n".join({each.aspect for each in pairs}))
    options = {"contestant": f"ours={own}", "vocabulary": vocabulary}
    tables = run(app, "texts", workspace / "dataset", **options)
    found = {(row["contestant"], row["measure"]): row for row in tables["figures"]}
    assert found["ours", RECALL]["value"] == found["references", RECALL]["value"] == 1
    assert found["ours", RECALL]["count"] == found["references", RECALL]["count"] - 1
    assert found["title and profile", MATCHED]["value"] == 0.5
    differences = {row["contestant"] for row in tables["differences"]}
    assert differences == {"references minus title and profile", "ours minus title and profile"}


SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def explainer(workspace):
    return load_model_of(str(workspace), LLMConfig(model=str(workspace / "llm"), dtype="float32"))


@pytest.fixture(scope="module")
def pairs(explainer):
    return Pairs.of(explainer.dataset, SPLITS)


@pytest.fixture(scope="module")
def finder(explainer):
    assert explainer.dataset.planted is not None
    return AspectNames(explainer.dataset.planted["aspect"].to_pylist())


def test_aspect_tokens_are_those_that_spell_the_names_and_never_the_end(explainer, finder):
    builder = explainer.pairs.builder
    name = explainer.dataset.planted["aspect"][0].as_py()
    text = f" The {name} will win you over, as its {name.upper()}."
    chosen = aspect_tokens(builder, text, finder)
    ids = builder.encode_explanation(text)
    assert len(chosen) == len(ids)
    assert not chosen[-1]
    starts = np.flatnonzero(np.diff([0, *chosen]) == 1)
    ends = np.flatnonzero(np.diff([*chosen, 0]) == -1) + 1
    spelled = [builder.decode(ids[start:end]) for start, end in zip(starts, ends, strict=True)]
    assert [part.strip(" .").lower() for part in spelled] == [name, name]


def test_weighed_couple_equals_the_sums_of_the_models_own_likelihoods(explainer, pairs, finder):
    couple = pairs.couples[:1]
    first, second = couple[0]
    users = [pairs.pairs[row].user_index for row in (first, second)]
    item = pairs.pairs[first].item_index
    references = [pairs.pairs[row].reference for row in (first, second)]

    def nats(prompts: list[Pair]) -> tuple[float, int]:
        said = explainer.pairs.texts_of(prompts, leave_out_own=True)
        examples = [
            explainer.pairs.example(*each) for each in zip(prompts, references, said, strict=True)
        ]
        lengths = [len(example.label_ids) for example in examples]
        means = dict(explanation_nll(explainer.model, examples, 1))
        return sum(means[index] * length for index, length in enumerate(lengths)), sum(lengths)

    a, b = users
    own, length = nats([Pair(a, item), Pair(b, item)])
    crossed = {
        "prompts": [Pair(b, item), Pair(a, item)],
        "vectors": [Pair(a, item, b), Pair(b, item, a)],
        "aspects": [Pair(a, item, None, b), Pair(b, item, None, a)],
    }
    found = weigh(explainer, pairs, couple, finder)
    assert found["NLL"] == pytest.approx([own / length], abs=1e-4)
    for name, prompts in crossed.items():
        gain = nats(prompts)[0] - own
        assert abs(gain) > 1e-3
        assert found[f"gain by {name}"] == pytest.approx([gain / length], abs=1e-4)
        assert found[f"2 x 2 by {name}"].tolist() == [float(gain > 0)]


def test_likelihood_command_writes_the_figures_of_each_seed(workspace, run):
    plain = f"{workspace}#{workspace / 'plain-adapter'}"
    contestants = [f"ours={workspace}", f"ours={workspace}", f"other={plain}"]
    options = {"llm": workspace / "llm", "max_couples": 2, "against": "other"}
    tables = run(app, "likelihood", contestant=contestants, split=list(SPLITS), **options)
    found = {(row["contestant"], row["measure"]): row for row in tables["figures"]}
    nll = found["ours", "NLL"]
    assert nll["count"] == 2
    assert nll["by_seed"][0] == pytest.approx(nll["by_seed"][1])
    difference = next(row for row in tables["differences"] if row["measure"] == "NLL")
    assert difference["value"] == pytest.approx(nll["value"] - found["other", "NLL"]["value"])
