"""Users of one item matched by likelihood: which tokens count, sums by hand, and the command."""

import shutil

import numpy as np
import pytest

from benchmarks.personal import app
from benchmarks.personal_data import Pairs
from benchmarks.personal_likelihood import aspect_tokens, load_model_of, same_dataset, weigh
from jobs.prepare import run as prepare_dataset
from tests.world.models import explanation_nll
from tests.world.workspace import SOURCE
from xrec.adapter.pairs import Pair
from xrec.checks import AspectNames
from xrec.config.data import PrepareConfig
from xrec.config.llm import LLMConfig
from xrec.errors import ArtifactMismatchError

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


def test_weighed_aspect_words_are_a_part_of_all_words(explainer, pairs):
    everything = AspectNames({word for text in pairs.references for word in text.split()})
    nothing = AspectNames(["no such aspect"])
    all_words = weigh(explainer, pairs, pairs.couples[:3], everything)
    no_words = weigh(explainer, pairs, pairs.couples[:3], nothing)
    assert all_words["NLL"] == pytest.approx(no_words["NLL"], abs=1e-5)
    assert np.isnan(no_words["NLL of aspect words"]).all()
    assert np.isnan(no_words["2 x 2 by prompts, aspect words"]).all()
    assert np.isfinite(all_words["gain by prompts, aspect words"]).all()
    assert "NLL of aspect words" not in weigh(explainer, pairs, pairs.couples[:1], None)


def test_couples_crossed_by_aspects_of_a_prompt_without_them_are_ties(workspace, pairs):
    config = LLMConfig(model=str(workspace / "llm"), dtype="float32")
    plain = load_model_of(f"{workspace}#{workspace / 'plain-adapter'}", config)
    found = weigh(plain, pairs, pairs.couples[:3], None, ["vectors", "aspects"])
    assert found["gain by aspects"].tolist() == [0, 0, 0]
    assert found["2 x 2 by aspects"].tolist() == [0.5, 0.5, 0.5]
    assert (found["gain by vectors"] != 0).all()
    assert "gain by prompts" not in found


def test_likelihood_command_writes_the_figures_of_each_seed(workspace, run, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(workspace / "adapter", adapter)
    contestants = [f"ours={workspace}", f"ours={workspace}#{adapter}", f"other={workspace}"]
    options = {"llm": workspace / "llm", "max_couples": 2, "against": "other"}
    splits = list(SPLITS)
    tables = run(app, "likelihood", contestant=contestants, split=splits, **options)
    found = {(row["contestant"], row["measure"]): row for row in tables["figures"]}
    nll = found["ours", "NLL"]
    assert nll["count"] == 2
    assert nll["by_seed"][0] == pytest.approx(nll["by_seed"][1])
    assert {row["value"] for row in tables["differences"]} == {0}


def test_workspaces_of_several_datasets_are_refused(workspace, tmp_path):
    other = {"workspace": str(tmp_path), "source": {**SOURCE, "seed": 1}}
    prepare_dataset(PrepareConfig.model_validate(other))
    with pytest.raises(ArtifactMismatchError, match="expected the same one"):
        same_dataset([str(workspace), str(tmp_path)])
