"""Pairs in, explanations out: dataset, graph, adapter and language model around an engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from xrec.adapter.artifact import TrainedAdapter, read_adapter
from xrec.adapter.pairs import PairPrompts
from xrec.aspects import AspectChooser, aspects_of, read_chooser
from xrec.checks import Checker
from xrec.config.llm import DecodingConfig, EngineConfig, LLMConfig
from xrec.config.shared import ColdStartConfig, Device, StorageConfig
from xrec.data.cold_start import History, read_cold_start, with_history
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ConfigError, DataError, ModelError
from xrec.generate.candidates import Candidate, Ranker, draw_candidates, read_ranker
from xrec.generate.choice import choose_engine
from xrec.generate.engine import Completion, Engine, Failure, FinishReason
from xrec.generate.text_rules import TextFinisher
from xrec.generate.transformers_engine import load_engine
from xrec.generate.vllm.version import check_installed_vllm
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.graph.cold_start import extend_with_new
from xrec.llm.model import (
    load_model,
    load_tokenizer,
    resolve_attention,
    resolve_device,
    resolve_dtype,
    stop_token_ids,
)
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import Manifest, fingerprint_of, open_location, read_manifest

ExplanationKind = Literal["written", "plain"]
"""Who wrote a text: the language model, or a template from the evidence."""


@dataclass(frozen=True)
class Explanation:
    """The text of the pair at `index`; `failure` says why it cannot be used, if so.

    kind: written by the model, or a plain sentence from the evidence in its place.
    refused: why the last text that was refused could not be used, "" if none was. A text that is
        written and has one is that of the second try.
    """

    index: int
    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: FinishReason
    failure: Failure | None = None
    kind: ExplanationKind = "written"
    refused: str = ""


@dataclass(frozen=True)
class Sources:
    """What an explainer is made from; everything in it can be sent to another process.

    The artifact `aspects` is read only if the adapter's prompt asks for aspects, `ranker` if it is
    given.
    """

    dataset: str
    graph: str
    adapter: str
    llm: LLMConfig
    storage: StorageConfig
    cold_start: ColdStartConfig | None = None
    aspects: str | None = None
    ranker: str | None = None


@dataclass(frozen=True)
class CheckedSources:
    """Sources that belong together; the language model is the files in `llm`.

    `aspects` is None if the adapter's prompt asks for none.
    """

    dataset: Manifest
    graph: Manifest
    adapter: TrainedAdapter
    aspects: Manifest | None
    llm: Path

    @property
    def model_inputs(self) -> dict[str, str]:
        """Fingerprints of base_model, adapter and graph."""
        return model_inputs(self.adapter, self.graph)

    @property
    def model_fingerprint(self) -> str:
        """Identifies language model, adapter and graph together."""
        return model_fingerprint_of(self.model_inputs)


class Explainer:
    """Explains pairs of one dataset with one model.

    `dataset` and `graph` also hold the new users and items of a cold start. `model` is None with
    vLLM, which does not give its model away. `model_fingerprint` identifies
    language model, adapter and trained graph together. `finisher` makes explanations of the texts
    that `engine` writes, `checker` checks them, and `ranker` takes the best of several.
    """

    def __init__(
        self,
        model: PreTrainedModel | None,
        engine: Engine,
        pairs: PairPrompts,
        dataset: Dataset,
        graph: GraphEmbeddings,
        model_fingerprint: str,
        checker: Checker | None = None,
        ranker: Ranker | None = None,
    ):
        self.model = model
        self.engine = engine
        self.pairs = pairs
        self.checker = checker or checker_of(dataset)
        self.ranker = ranker
        self.finisher = TextFinisher(pairs.builder, pairs.titles, self.checker)
        self.dataset = dataset
        self.graph = graph
        self.model_fingerprint = model_fingerprint

    def explain(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        """Yield the explanation of each prompt as it is finished, those of a second try last.

        `prompts` are made by `self.pairs.prompt`, `texts` by `self.pairs.texts` of the same pairs.
        A text that is refused is tried once more if `decoding.text` says so, and what is refused
        for the last time gets its fallback. The model writes nothing of a pair whose text would be
        refused whatever it says.
        """
        second = decoding.second_try
        asked: list[int] = []
        for index, said in enumerate(texts):
            failure = self.finisher.failure_of_any(said, decoding.text)
            if failure is None:
                asked.append(index)
            else:
                yield Explanation(index, "", len(prompts[index]), 0, "failed", failure)
        again: dict[int, str] = {}
        for explanation in self._explain(asked, prompts, texts, decoding):
            if second is not None and _is_refused(explanation):
                again[explanation.index] = explanation.refused
            else:
                yield self._final(explanation, texts, decoding)
        if second is not None and again:
            for explanation in self._explain(list(again), prompts, texts, second):
                reason = explanation.refused or again[explanation.index]
                yield self._final(replace(explanation, refused=reason), texts, decoding)

    def _final(
        self, explanation: Explanation, texts: Sequence[PairTexts], decoding: DecodingConfig
    ) -> Explanation:
        """The explanation, with its fallback if its text was refused."""
        if explanation.failure is None or not _is_refused(explanation):
            return explanation
        text, failure = self.finisher.fallback(
            texts[explanation.index], decoding.text, explanation.failure
        )
        if failure is not None:
            return replace(explanation, failure=failure)
        return replace(explanation, text=text, failure=None, kind="plain")

    def _explain(
        self,
        indices: Sequence[int],
        all_prompts: Sequence[Sequence[int]],
        all_texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        """One try of the pairs at `indices`; each explanation has the index of its pair there."""
        if not indices:
            return
        prompts = [all_prompts[index] for index in indices]
        texts = [all_texts[index] for index in indices]
        if decoding.num_candidates > 1:
            found = self._best_of_candidates(prompts, texts, decoding)
        else:
            found = self._of_completions(prompts, texts, decoding)
        for explanation in found:
            yield replace(explanation, index=indices[explanation.index])

    def _of_completions(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        for completion in self.engine.generate(self._begun(prompts, texts, decoding), decoding):
            prompt, text, failure = prompts[completion.index], "", completion.failure
            if failure is None:
                text, failure = self.finisher.finish(
                    completion, prompt, texts[completion.index], decoding
                )
            yield _explanation(completion, prompt, text, failure)

    def _begun(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> list[list[int]]:
        """The prompts, each with the opening of its text."""
        return [
            [*prompt, *self.finisher.opening(said, decoding)]
            for prompt, said in zip(prompts, texts, strict=True)
        ]

    def candidates(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> list[list[Candidate]]:
        """`decoding.num_candidates` texts of each prompt, with what a ranker knows of them."""
        return draw_candidates(
            self.engine,
            self._begun(prompts, texts, decoding),
            texts,
            decoding,
            lambda completion: self.finisher.finish(
                completion, prompts[completion.index], texts[completion.index], decoding
            ),
            self.checker,
            self.pairs.builder.vocabulary,
        )

    def _best_of_candidates(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        if self.ranker is None:
            raise ConfigError(
                f"decoding.num_candidates = {decoding.num_candidates} needs a ranker: run "
                "`xrec train-ranker`, or set it to 1"
            )
        for drawn, prompt in zip(self.candidates(prompts, texts, decoding), prompts, strict=True):
            usable = [each for each in drawn if each.failure is None]
            best = (
                usable[self.ranker.best([each.features for each in usable])] if usable else drawn[0]
            )
            yield _explanation(best.completion, prompt, best.text, best.failure)


def _explanation(
    completion: Completion, prompt: Sequence[int], text: str, failure: Failure | None
) -> Explanation:
    return Explanation(
        index=completion.index,
        text=text,
        num_prompt_tokens=len(prompt),
        num_generated_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        failure=failure,
        refused=failure.reason if failure and not completion.failure else "",
    )


def _is_refused(explanation: Explanation) -> bool:
    """Whether the model wrote a text, and a rule or check refuses it."""
    return explanation.failure is not None and explanation.finish_reason != "failed"


def checker_of(dataset: Dataset, storage: StorageConfig | None = None) -> Checker:
    """Checks texts about the items of `dataset`, whose vocabulary it takes if it has one."""
    aspects = dataset.aspects
    return Checker(() if aspects is None else aspects["aspect"].to_pylist(), storage)


def model_inputs(adapter: TrainedAdapter, graph: Manifest) -> dict[str, str]:
    """Fingerprints of base_model, adapter and graph: what a text's model consists of."""
    return {
        "base_model": adapter.config.base_model_fingerprint,
        "adapter": adapter.fingerprint,
        "graph": graph.fingerprint,
    }


def model_fingerprint_of(inputs: Mapping[str, str]) -> str:
    """The fingerprint of the model that consists of `model_inputs`."""
    return fingerprint_of([inputs[name] for name in ("base_model", "adapter", "graph")])


def check_sources(sources: Sources) -> CheckedSources:
    """Check that dataset, graph, adapter and language model belong together.

    Neither vectors nor the language model are loaded. Raises ArtifactNotFoundError,
    ArtifactMismatchError, ModelError.
    """
    dataset = read_manifest(open_location(sources.dataset, sources.storage), "dataset")
    graph = read_manifest(open_location(sources.graph, sources.storage), "graph")
    return _check(sources, dataset, graph)


def load_explainer(
    sources: Sources,
    *,
    device: Device,
    engine: EngineConfig,
    history: History | None = None,
    num_reserved_users: int = 0,
    passes_per_step: int | None = None,
) -> Explainer:
    """Load everything into this process; with `history`, one new user is known too.

    The graph gets `num_reserved_users` more users, whose vectors are zeros, from index
    `dataset.num_users` on. They are places for the vectors of users who come later: an adapter that
    reads the graph sees what is written into `graph.users` there. `passes_per_step` is
    `PackedRun`'s; texts that are read while they are written need a small one. (With vLLM any
    number means that each token is told.)

    Raises what `check_sources` raises, ModelError, DataError for cold-start tables that cannot be
    read or a history that gives no vector, ConfigError for a history of a known user,
    UnknownIdError for one with an unknown item.
    """
    dataset = read_dataset(open_location(sources.dataset, sources.storage))
    graph = read_graph(open_location(sources.graph, sources.storage))
    checked = _check(sources, dataset.manifest, graph.manifest)
    if sources.cold_start or history:
        dataset, graph = _extended(sources, dataset, graph, history)
    if num_reserved_users:
        graph = replace(
            graph,
            users=torch.cat(
                [graph.users, graph.users.new_zeros(num_reserved_users, graph.users.shape[1])]
            ),
        )
    torch_device = resolve_device(device)
    if choose_engine(engine, torch_device, checked.llm) == "vllm":
        return _vllm_explainer(
            sources,
            checked,
            dataset,
            graph,
            torch_device,
            engine,
            is_streaming=passes_per_step is not None,
            num_reserved_users=num_reserved_users,
        )
    model = load_model(
        checked.llm,
        dtype=resolve_dtype(sources.llm.dtype, torch_device),
        device=torch_device,
        attn_implementation=resolve_attention(sources.llm.attn_implementation, torch_device),
    )
    tokenizer = load_tokenizer(checked.llm)
    builder = checked.adapter.attach(model, tokenizer, graph)
    generator = load_engine(
        model,
        stop_token_ids(model, tokenizer),
        builder.decode,
        engine,
        passes_per_step=passes_per_step,
    )
    return _assembled(sources, checked, dataset, graph, builder, generator, model)


def _assembled(
    sources: Sources,
    checked: CheckedSources,
    dataset: Dataset,
    graph: GraphEmbeddings,
    builder: PromptBuilder,
    engine: Engine,
    model: PreTrainedModel | None,
) -> Explainer:
    """The explainer around an engine, with what chooses, checks and ranks."""
    return Explainer(
        model,
        engine,
        PairPrompts(dataset, builder, _chooser(sources, checked, dataset)),
        dataset,
        graph,
        checked.model_fingerprint,
        checker_of(dataset, sources.storage),
        _ranker(sources),
    )


def _chooser(sources: Sources, checked: CheckedSources, dataset: Dataset) -> AspectChooser | None:
    if checked.aspects is None or sources.aspects is None:
        return None
    return read_chooser(open_location(sources.aspects, sources.storage), dataset)


def _ranker(sources: Sources) -> Ranker | None:
    if sources.ranker is None:
        return None
    return read_ranker(open_location(sources.ranker, sources.storage))


def _vllm_explainer(
    sources: Sources,
    checked: CheckedSources,
    dataset: Dataset,
    graph: GraphEmbeddings,
    device: torch.device,
    config: EngineConfig,
    *,
    is_streaming: bool,
    num_reserved_users: int,
) -> Explainer:
    try:
        check_installed_vllm()
        from xrec.generate.vllm.engine import load_vllm_engine
    except ImportError as error:
        raise ModelError(
            f"engine.kind vllm: vLLM cannot be imported here ({error}); "
            "run: pip install 'xrec[vllm]', or set engine.kind=transformers"
        ) from error
    tokenizer = load_tokenizer(checked.llm)
    engine = load_vllm_engine(
        checked.llm,
        tokenizer,
        checked.adapter,
        graph,
        dtype=sources.llm.dtype,
        device=device,
        config=config,
        is_streaming=is_streaming,
        num_reserved_users=num_reserved_users,
    )
    if engine.users is not None:  # what is written there is seen by vLLM's processes
        graph = replace(graph, users=engine.users)
    builder = PromptBuilder(tokenizer, checked.adapter.config.prompt, engine.vocabulary)
    return _assembled(sources, checked, dataset, graph, builder, engine, None)


def _check(sources: Sources, dataset: Manifest, graph: Manifest) -> CheckedSources:
    check_graph_of_dataset(graph, dataset, sources.graph, sources.dataset)
    adapter = read_adapter(open_location(sources.adapter, sources.storage))
    adapter.check_graph(graph.fingerprint)
    folder = resolve_model(sources.llm.model, sources.llm.cache_dir, sources.storage)
    adapter.check_base_model(model_fingerprint(folder), sources.llm.model)
    aspects = aspects_of(adapter.config.prompt, sources.aspects, dataset, sources.storage)
    return CheckedSources(dataset, graph, adapter, aspects, folder)


def _extended(
    sources: Sources, dataset: Dataset, graph: GraphEmbeddings, history: History | None
) -> tuple[Dataset, GraphEmbeddings]:
    """Dataset and graph with the users and items of the cold start, and the user of `history`."""
    tables = read_cold_start(sources.cold_start, sources.storage)
    if history is None:
        return extend_with_new(dataset, graph, tables)
    extended = extend_with_new(dataset, graph, with_history(tables, dataset, history))
    if history.user_id not in extended[0].users["user_id"].slice(dataset.num_users).to_pylist():
        raise DataError(
            f"the history of user {history.user_id!r} gives no vector: none of its "
            f"{len(history.item_ids)} items has training interactions; give an item that has"
        )
    return extended
