"""The benchmark of personal texts: its figures, its files, and likelihoods."""

import numpy as np
import pytest

from benchmarks.personal import app
from benchmarks.personal_data import MATCHED, RECALL, Pairs
from benchmarks.personal_likelihood import load_model_of, weigh
from benchmarks.personal_report import Measure
from tests.world.models import explanation_nll
from tests.world.shop import write_json_lines
from xrec.adapter.pairs import Pair
from xrec.checks import AspectNames
from xrec.config import LLMConfig
from xrec.data import open_dataset

NAN = float("nan")


def test_measure_averages_the_seeds_that_have_a_value_and_clusters_by_groups():
    measure = Measure(np.array([[0.0, 1, NAN, NAN], [1, 1, NAN, 0]]), ["a", "a", "b", "c"])
    record = measure.record()
    assert record["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert record["count"] == 3
    assert record["by_seed"] == [0.5, pytest.approx(2 / 3)]
    # Users a and c: residuals of 1/6 and -1/6 are a standard error of 1/3, and t is 12.706.
    assert (record["low"], record["high"]) == pytest.approx((0.5 - 4.2354, 0.5 + 4.2354), abs=1e-3)


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


def test_weighed_couple_equals_the_sums_of_the_models_own_likelihoods(workspace):
    llm = LLMConfig(model=str(workspace / "llm"), dtype="float32")
    explainer = load_model_of(str(workspace), llm)
    pairs = Pairs.of(explainer.dataset, ("train", "validation", "test"))
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
    aspects = AspectNames(explainer.dataset.planted["aspect"].to_pylist())
    found = weigh(explainer, pairs, couple, aspects)
    assert found["NLL"] == pytest.approx([own / length], abs=1e-4)
    for name, prompts in crossed.items():
        gain = nats(prompts)[0] - own
        assert abs(gain) > 1e-3
        assert found[f"gain by {name}"] == pytest.approx([gain / length], abs=1e-4)
        assert found[f"2 x 2 by {name}"].tolist() == [float(gain > 0)]
