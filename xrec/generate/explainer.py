"""Pairs in, explanations out: dataset, graph, adapter and language model around an engine.

loading makes one from artifacts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.checks import Checker
from xrec.config.decoding import DecodingConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import Dataset
from xrec.errors import ConfigError
from xrec.generate.candidates import Candidate, Ranker, draw_candidates
from xrec.generate.engine import Completion, Engine, Failure, FinishReason
from xrec.generate.text_rules import ExplanationKind, TextFinisher
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.prompt import PairTexts


@dataclass(frozen=True)
class Explanation:
    """The text of the pair at `index`; `failure` says why it cannot be used, if so.

    kind: written by the model, or plain: a sentence from the evidence in its place, or an opening
        to which the model added nothing.
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
        """Yield the explanation of each prompt as it is finished.

        `prompts` are made by `self.pairs.prompt`, `texts` by `self.pairs.texts` of the same pairs.
        A text that is refused is tried once more if `decoding.text` says so, and what is refused
        for the last time gets its fallback. The model writes nothing of a pair whose text would be
        refused whatever it says.
        """
        asked: list[int] = []
        for index, said in enumerate(texts):
            failure = self.finisher.failure_of_any(said, decoding.text)
            if failure is None:
                asked.append(index)
            else:
                yield Explanation(index, "", len(prompts[index]), 0, "failed", failure)
        write = self._best_of_candidates if decoding.num_candidates > 1 else self._written
        for explanation in _of_some(asked, write, prompts, texts, decoding):
            yield self._final(explanation, texts, decoding)

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

    def _written(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        """One text of each pair, the second where the first was refused."""
        refused: dict[int, str] = {}
        accepted: dict[int, str] = {}

        def finished(completion: Completion) -> tuple[str, Failure | None]:
            prompt, said = prompts[completion.index], texts[completion.index]
            return self.finisher.finish(completion, prompt, said, decoding)

        def is_refused(completion: Completion) -> bool:
            text, failure = finished(completion)
            if failure is None:
                accepted[completion.index] = text
                return False
            refused[completion.index] = failure.reason
            return True

        begun = self._begun(prompts, texts, decoding)
        for completion in self.engine.generate(begun, decoding, is_refused):
            failure = completion.failure
            text = accepted.pop(completion.index, "")
            if failure is None and not text:
                text, failure = finished(completion)
            kind = self.finisher.kind(completion, texts[completion.index], decoding)
            explanation = _explanation(completion, prompts[completion.index], text, failure, kind)
            reason = explanation.refused or refused.get(completion.index, "")
            yield replace(explanation, refused=reason)

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
            self.pairs.builder.end_token,
        )

    def _best_of_candidates(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        """The best of several texts of each pair, drawn again where all were refused."""
        second = decoding.second_try
        again: dict[int, str] = {}
        for explanation in self._best(prompts, texts, decoding):
            if second is not None and _is_refused(explanation):
                again[explanation.index] = explanation.refused
            else:
                yield explanation
        if second is not None:
            for explanation in _of_some(list(again), self._best, prompts, texts, second):
                reason = explanation.refused or again[explanation.index]
                yield replace(explanation, refused=reason)

    def _best(
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
        candidates = self.candidates(prompts, texts, decoding)
        for drawn, prompt, said in zip(candidates, prompts, texts, strict=True):
            usable = [each for each in drawn if each.failure is None]
            best = (
                usable[self.ranker.best([each.features for each in usable])] if usable else drawn[0]
            )
            kind = self.finisher.kind(best.completion, said, decoding)
            yield _explanation(best.completion, prompt, best.text, best.failure, kind)


_Write = Callable[
    [Sequence[Sequence[int]], Sequence[PairTexts], DecodingConfig], Iterator[Explanation]
]


def _of_some(
    indices: Sequence[int],
    write: _Write,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[PairTexts],
    decoding: DecodingConfig,
) -> Iterator[Explanation]:
    """What `write` makes of the pairs at `indices`; each explanation has the index of its pair."""
    if not indices:
        return
    some_prompts = [prompts[index] for index in indices]
    some_texts = [texts[index] for index in indices]
    for explanation in write(some_prompts, some_texts, decoding):
        yield replace(explanation, index=indices[explanation.index])


def _explanation(
    completion: Completion,
    prompt: Sequence[int],
    text: str,
    failure: Failure | None,
    kind: ExplanationKind,
) -> Explanation:
    return Explanation(
        index=completion.index,
        text=text,
        num_prompt_tokens=len(prompt),
        num_generated_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        failure=failure,
        kind=kind,
        refused=failure.reason if failure and not completion.failure else "",
    )


def _is_refused(explanation: Explanation) -> bool:
    """Whether the model wrote a text, and a rule or check refuses it."""
    return explanation.failure is not None and explanation.finish_reason != "failed"


def checker_of(dataset: Dataset, storage: StorageConfig | None = None) -> Checker:
    """Checks texts about the items of `dataset`, whose vocabulary it takes if it has one."""
    aspects = dataset.aspects
    return Checker(() if aspects is None else aspects["aspect"].to_pylist(), storage)
