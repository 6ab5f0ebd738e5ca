"""Pairs in, explanations out: dataset, graph, adapter and language model around an engine.

loading makes one from artifacts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.checks import Checker
from xrec.config.decoding import DecodingConfig
from xrec.config.shared import StorageConfig
from xrec.data.dataset import Dataset
from xrec.generate.engine import Completion, Failure, FinishReason
from xrec.generate.shared_engine import SharedEngine
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
    that `engine` writes, and `checker` checks them.
    """

    def __init__(
        self,
        model: PreTrainedModel | None,
        engine: SharedEngine,
        pairs: PairPrompts,
        dataset: Dataset,
        graph: GraphEmbeddings,
        model_fingerprint: str,
        checker: Checker | None = None,
    ):
        self.model = model
        self.engine = engine
        self.pairs = pairs
        self.checker = checker or checker_of(dataset)
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
        if not asked:
            return
        for explanation in self._written(
            [prompts[index] for index in asked], [texts[index] for index in asked], decoding
        ):
            placed = replace(explanation, index=asked[explanation.index])
            yield self._final(placed, texts, decoding)

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
