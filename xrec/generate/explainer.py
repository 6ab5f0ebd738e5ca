"""Pairs in, explanations out: dataset, graph, adapter and language model around an engine.

loading makes one from artifacts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
        if asked:
            yield from self._written(asked, prompts, texts, decoding)

    def _written(
        self,
        asked: Sequence[int],
        prompts: Sequence[Sequence[int]],
        texts: Sequence[PairTexts],
        decoding: DecodingConfig,
    ) -> Iterator[Explanation]:
        """One explanation of each pair whose index is `asked`."""
        accepted: dict[int, str] = {}
        refused: dict[int, str] = {}

        def finish(index: int, completion: Completion) -> tuple[str, Failure | None]:
            text, failure = self.finisher.finish(completion, prompts[index], texts[index], decoding)
            if failure is not None:
                refused[index] = failure.reason
            return text, failure

        def is_refused(completion: Completion) -> bool:
            index = asked[completion.index]
            text, failure = finish(index, completion)
            if failure is None:
                accepted[index] = text
            return failure is not None

        begun = [
            [*prompts[index], *self.finisher.opening(texts[index], decoding)] for index in asked
        ]
        for completion in self.engine.generate(begun, decoding, is_refused):
            index, failure = asked[completion.index], completion.failure
            text = accepted.pop(index, "")
            kind = self.finisher.kind(completion, texts[index], decoding)
            if failure is None and not text:
                text, failure = finish(index, completion)
                if failure is not None:
                    plain, failure = self.finisher.fallback(texts[index], decoding.text, failure)
                    text, kind = (plain, "plain") if failure is None else (text, kind)
            yield Explanation(
                index=index,
                text=text,
                num_prompt_tokens=len(prompts[index]),
                num_generated_tokens=len(completion.token_ids),
                finish_reason=completion.finish_reason,
                failure=failure,
                kind=kind,
                refused=refused.get(index, ""),
            )


def checker_of(dataset: Dataset, storage: StorageConfig | None = None) -> Checker:
    """Checks texts about the items of `dataset`, whose vocabulary it takes if it has one."""
    aspects = dataset.aspects
    return Checker(() if aspects is None else aspects["aspect"].to_pylist(), storage)
