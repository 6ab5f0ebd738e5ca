"""Dataset, graph, adapter and language model together: texts, titles, and what is refused."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.errors import raises
from tests.world.models import explanation_nll, save_toy_model, toy_tokenizer
from tests.world.workspace import make_adapter, make_town, save_random_graph
from tests.xrec.generate.cores import generate
from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.pairs import Pair
from xrec.config import (
    ChecksConfig,
    DecodingConfig,
    EngineConfig,
    ExplanationsJobConfig,
    LLMConfig,
    TextConfig,
)
from xrec.data import AspectEvidence
from xrec.errors import ArtifactMismatchError, ModelError
from xrec.generate.engine import Completion, TextParams
from xrec.generate.explainer import MOST_TEXTS, Explainer, Explanation
from xrec.generate.loading import choose_engine
from xrec.generate.scoring import reference_nll
from xrec.generate.shared_engine import Again, Requests
from xrec.llm.prompt import PairTexts
from xrec.llm.source import model_fingerprint
from xrec.storage import fingerprint_of, manifest_of, open_location, read_manifest
from xrec.text.writers import check_adapter, load_explainer

SHORT = DecodingConfig(max_new_tokens=5)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("workspace"))


def job(workspace: Path, **changes: Path) -> ExplanationsJobConfig:
    llm = LLMConfig(model=str(changes.pop("llm", workspace / "llm")), dtype="float32")
    engine = EngineConfig(max_rows=3)
    config = ExplanationsJobConfig(workspace=str(workspace), llm=llm, engine=engine)
    return config.with_artifacts({name: str(folder) for name, folder in changes.items()})


def checked(config: ExplanationsJobConfig) -> TrainedAdapter:
    dataset, graph = (manifest_of(config, name) for name in ("dataset", "graph"))
    adapter, _ = check_adapter(config, dataset, graph)
    return adapter


@pytest.fixture
def explainer(workspace):
    return load_explainer(job(workspace), "cpu")


def explained(
    explainer: Explainer,
    prompts: Sequence[list[int]],
    texts: Sequence[PairTexts],
    decoding: DecodingConfig = SHORT,
) -> list[Explanation]:
    found = sorted(explainer.explain(prompts, texts, decoding), key=lambda one: one.index)
    assert [one.index for one in found] == list(range(len(prompts)))
    return found


def asked(explainer: Explainer, *pairs: Pair) -> tuple[list[list[int]], list[PairTexts]]:
    texts = [explainer.pairs.texts(pair) for pair in pairs]
    return [explainer.pairs.prompt(pair) for pair in pairs], texts


def test_explainer_explains_each_prompt_and_counts_its_tokens(workspace, explainer):
    prompts, texts = asked(explainer, Pair(0, 1), Pair(11, 9), Pair(0, 1))
    explanations = explained(explainer, prompts, texts)
    assert [explanation.num_prompt_tokens for explanation in explanations] == [
        len(prompt) for prompt in prompts
    ]
    assert explanations[0].text == explanations[2].text != explanations[1].text
    completions = generate(explainer.engine, prompts, SHORT)
    for explanation in explanations:
        ids = completions[explanation.index].token_ids
        assert explanation.num_generated_tokens == len(ids)
        assert explanation.text == toy_tokenizer().decode(ids, skip_special_tokens=True).strip()
    adapter, graph = checked(job(workspace)), manifest_of(job(workspace), "graph")
    inputs = [model_fingerprint(workspace / "llm"), adapter.fingerprint, graph.fingerprint]
    assert explainer.model_fingerprint == fingerprint_of(inputs)
    assert "Why?" in explainer.pairs.builder.show(prompts[0])  # the prompt is the adapter's


def test_reference_nll_is_that_of_padded_batches_of_the_model(explainer):
    pairs = [Pair(0, 1), Pair(2, 3), Pair(2, 3, 4), Pair(1, 0), Pair(1, 2)]
    references = ["It is calm.", "The garden has tea.", "The garden has tea.", "Near", "So calm!"]
    examples = [explainer.pairs.example(*one) for one in zip(pairs, references, strict=True)]
    expected = dict(explanation_nll(explainer.model, examples, 2))
    found = reference_nll(explainer, pairs, references, "NLL")
    assert found == pytest.approx([expected[index] for index in range(len(pairs))], abs=1e-4)
    assert len(set(found)) == len(pairs)


def test_another_prompt_is_another_model(workspace, tmp_path):
    base_model = model_fingerprint(workspace / "llm")
    graph = read_manifest(open_location(str(workspace / "graph")), "graph").fingerprint
    make_adapter(tmp_path, graph, base_model, untitled="this place")
    own, other = (checked(each) for each in (job(workspace), job(workspace, adapter=tmp_path)))
    assert own.fingerprint != other.fingerprint  # which the content keys hold


class ScriptedEngine:
    """An engine that writes `texts`: first the first try of each prompt, then further tries.

    `asked` is how it was asked to draw each text.
    """

    def __init__(self, explainer: Explainer, *texts: str):
        self.asked: list[TextParams] = []
        self._scripts = [explainer.pairs.builder.encode_explanation(text)[:-1] for text in texts]

    def complete(self, requests: Requests, again: Again) -> Iterator[Completion]:
        firsts = [Completion(index, self._scripts.pop(0), "stop") for index in range(len(requests))]
        self.asked += [params for _, params in requests]
        for completion in firsts:
            while (params := again(completion)) is not None:
                self.asked.append(params)
                completion = Completion(completion.index, self._scripts.pop(0), "stop")
            yield completion


def test_explainer_fills_in_titles_and_redraws_a_text_about_another_item(explainer):
    titles = explainer.dataset.items["title"].to_pylist()
    explainer.engine = ScriptedEngine(
        explainer, "I love [title].", f"I love {titles[5]}.", "[title] is near.", "I love [title]!"
    )
    prompts, texts = asked(explainer, Pair(0, 3), Pair(0, 4), Pair(1, 5))
    decoding = DecodingConfig(text=TextConfig(retry_temperature=1.0))
    assert [one.text for one in explained(explainer, prompts, texts, decoding)] == [
        f"I love {titles[3]}.",
        f"I love {titles[4]}!",
        f"{titles[5]} is near.",
    ]
    explainer.engine = ScriptedEngine(explainer, f"I love {titles[5]}.")
    rules = TextConfig(checks=ChecksConfig(not_positive=True), retry_temperature=None)
    (refused,) = explainer.explain(prompts[:1], texts[:1], DecodingConfig(text=rules))
    assert refused.failure.reason == "names_another_item"


def test_explainer_checks_texts_redraws_them_and_falls_back_on_evidence(explainer):
    engine = ScriptedEngine(
        explainer,
        "[title] has 70 tables.",
        "[title] has 71 tables.",
        "I love [title].",
        "[title] has 73 tables.",
        "I like [title].",  # the second try of the first pair
        *["[title] has 91 tables."] * (MOST_TEXTS - 1),
        *["[title] has 93 tables."] * (MOST_TEXTS - 1),
    )
    explainer.engine = engine
    prompts, texts = asked(explainer, Pair(0, 3), Pair(0, 4), Pair(1, 5), Pair(1, 6))
    for place, num_reviews in ((1, 3), (3, 1)):
        evidence = AspectEvidence("garden", num_reviews, 4, 0, 2)
        texts[place] = replace(texts[place], aspects=(evidence,))
    decoding = DecodingConfig(seed=5, text=TextConfig(checks=ChecksConfig(unsupported=True)))
    titles = explainer.dataset.items["title"].to_pylist()
    assert [
        (one.text if one.failure is None else one.failure.reason, one.kind, one.refused)
        for one in explained(explainer, prompts, texts, decoding)
    ] == [
        (f"I like {titles[3]}.", "written", "unsupported"),
        (f"3 of 4 reviews of {titles[4]} mention the garden.", "plain", "unsupported"),
        (f"I love {titles[5]}.", "written", ""),
        ("abstained", "written", "unsupported"),
    ]
    drawn = [(each.temperature, each.seed) for each in engine.asked]
    assert (drawn[0], drawn[-1]) == ((0.0, 5), (0.4, 4 + MOST_TEXTS))
    assert len(drawn) == 4 + 1 + 2 * (MOST_TEXTS - 1)


def test_explainer_bans_unsupported_words_in_further_texts(explainer):
    bad = ["[title] has a wine touch.", "[title] has a touch of coffee."]
    engine = explainer.engine = ScriptedEngine(explainer, *bad, bad[1], "I like [title].")
    prompts, (said,) = asked(explainer, Pair(0, 3))
    texts = [replace(said, item_profile="Old brick.", menu=frozenset())]
    checks = ChecksConfig(unsupported=True)
    (one,) = explainer.explain(prompts, texts, DecodingConfig(text=TextConfig(checks=checks)))
    assert (one.failure, one.refused) == (None, "unsupported")
    first, second, third, last = engine.asked
    banned = [explainer.pairs.builder.first_tokens(word) for word in ("wine", "coffee")]
    assert all(banned)
    assert [each.banned for each in (first, second, third)] == [
        set(),
        banned[0],
        {*banned[0], *banned[1]},
    ]
    assert (third.temperature, third.seed) == (first.temperature, first.seed)
    assert (last.banned, last.temperature, last.seed) == (third.banned, 0.4, 3)


@pytest.mark.parametrize(("fallback", "reason"), [("plain", "abstained"), ("none", "unsupported")])
def test_explainer_generates_no_text_that_would_be_refused(explainer, fallback, reason):
    explainer.pairs.builder.prompt = explainer.pairs.builder.prompt.model_copy(
        update={"aspects": 3}
    )
    engine = explainer.engine = ScriptedEngine(explainer, "I love [title].", "I like [title].")
    prompts, texts = asked(explainer, Pair(0, 3), Pair(0, 4), Pair(1, 5))
    texts = [replace(said, item_profile="Old brick.") for said in texts]
    texts[1] = replace(texts[1], item_profile=" ", menu=frozenset())
    checks = ChecksConfig(unsupported=True)
    decoding = DecodingConfig(text=TextConfig(checks=checks, fallback=fallback))
    first, unknown, last = explained(explainer, prompts, texts, decoding)
    titles = explainer.dataset.items["title"].to_pylist()
    assert (first.text, last.text) == (f"I love {titles[3]}.", f"I like {titles[5]}.")
    assert unknown.failure.reason == reason
    assert (unknown.text, unknown.num_generated_tokens) == ("", 0)
    assert unknown.num_prompt_tokens == len(prompts[1])
    assert len(engine.asked) == 2
    (alone,) = explainer.explain(prompts[1:2], texts[1:2], decoding)
    assert (alone.index, alone.failure) == (0, unknown.failure)
    assert len(engine.asked) == 2


def test_check_of_artifacts_that_do_not_belong_together_is_refused(workspace, tmp_path):
    save_random_graph(tmp_path / "graph", 12, 10, "another")
    make_adapter(tmp_path / "adapter", "another", "irrelevant")
    save_toy_model(tmp_path / "llm", seed=1)
    for name, code in (
        ("graph", "graph_of_another_dataset"),
        ("adapter", "another_graph"),
        ("llm", "another_model"),
    ):
        with raises(ArtifactMismatchError, code):
            checked(job(workspace, **{name: tmp_path / name}))


CPU, GPU = torch.device("cpu"), torch.device("cuda")
QWEN, GEMMA = ("qwen3", "Qwen3ForCausalLM"), ("gemma", "GemmaForCausalLM")


@pytest.mark.parametrize(
    ("device", "family", "vllm", "kind"),
    [
        (GPU, QWEN, "0.30.0", "vllm"),
        (CPU, QWEN, "0.30.0", "builtin"),
        (GPU, QWEN, None, "builtin"),
        (GPU, QWEN, "0.33.0", "builtin"),
        (GPU, GEMMA, "0.30.0", "builtin"),
    ],
)
def test_auto_takes_vllm_on_a_gpu_if_it_can(tmp_path, monkeypatch, device, family, vllm, kind):
    """`vllm` is the installed version. If vLLM is required but impossible, an error says why."""
    module = None if vllm is None else SimpleNamespace(__version__=vllm)
    monkeypatch.setitem(sys.modules, "vllm", module)
    config = {"model_type": family[0], "architectures": [family[1]]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert choose_engine(EngineConfig(), device, tmp_path) == kind
    engine = EngineConfig(vllm={"seed": 1})
    if kind == "vllm":
        assert choose_engine(engine, device, tmp_path) == "vllm"
    else:
        with raises(ModelError, "needs_vllm", key="engine.vllm"):
            choose_engine(engine, device, tmp_path)
    for named in ("builtin", "vllm"):
        assert choose_engine(EngineConfig(kind=named), device, tmp_path) == named
