"""Explain pairs with a dataset, graph, adapter, language model and engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.checks import Checker
from xrec.config import DecodingConfig, StorageConfig
from xrec.data import Dataset
from xrec.errors import Failure
from xrec.generate.engine import Completion, FinishReason, TextParams, text_params
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.text_rules import ExplanationKind, TextFinisher
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.prompt import PairTexts
from xrec.storage import fingerprint_of

MOST_TEXTS = 5
"""Maximum number of texts drawn for a pair."""


@dataclass(frozen=True)
class Explanation:
    """The text for the pair at `index`.

    failure: why the text cannot be used, if it cannot.
    kind: `written` by the model, or a `plain` sentence from the evidence.
    refused: why the last refused text was refused; "" if none was. It is also set if a later text
        was accepted.
    """

    index: int
    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: FinishReason
    failure: Failure | None = None
    kind: ExplanationKind = "written"
    refused: str = ""


@dataclass(eq=False)
class Explainer:
    """Explains the pairs of a dataset with a model.

    model: the language model with adapters, if there are any; None with vLLM, which does not expose
        its model, and with an endpoint.
    graph: None if the texts are written from words alone.
    model_fingerprint: identifies the combination of language model, adapter and graph.
    finisher: turns the engine's texts into explanations, which `checker` checks.
    base: the language model without adapters, which explainers of other adapters can share.
    """

    model: PreTrainedModel | None
    engine: SharedEngine
    pairs: PairPrompts
    dataset: Dataset
    graph: GraphEmbeddings | None
    model_fingerprint: str
    checker: Checker
    base: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        self.finisher = TextFinisher(self.pairs.builder, self.pairs.titles, self.checker)

    def explain(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[PairTexts], decoding: DecodingConfig
    ) -> Iterator[Explanation]:
        """Yield the explanation of each prompt as it finishes.

        prompts, texts: the results of `self.pairs.prompt` and `self.pairs.texts` for the pairs.

        A refused text is drawn again if `decoding` allows it, and replaced by the fallback if the
        last try is refused. If any text about a pair would be refused, none is generated.
        """
        asked: list[tuple[int, Asked]] = []
        for index, (prompt, pair_texts) in enumerate(zip(prompts, texts, strict=True)):
            refused = self.finisher.failure_of_any(pair_texts, decoding.text)
            if refused is None:
                asked.append((index, Asked(self.finisher, prompt, pair_texts, decoding)))
                continue
            plain, failure = self.finisher.fallback(pair_texts, decoding.text, refused)
            if failure is None:
                yield Explanation(
                    index, plain, len(prompt), 0, "stop", None, "plain", refused.reason
                )
            else:
                yield Explanation(index, "", len(prompt), 0, "failed", failure)
        requests = [(request.prompt_ids, request.params) for _, request in asked]
        for completion in self.engine.complete(
            requests, lambda ended: asked[ended.index][1].again(ended)
        ):
            index, request = asked[completion.index]
            yield request.explanation(index, completion)


class Asked:
    """The request for one pair's text, with its retries.

    Pass each completion to `again` and the last one to `explanation`. Neither uses the engine. Both
    take milliseconds, so do not call them in an event loop.

    A refused text is drawn again if `decoding` allows it, up to `MOST_TEXTS` texts: with the same
    parameters but without the words to blame or, if there are no new ones, at another temperature.
    """

    def __init__(
        self,
        finisher: TextFinisher,
        prompt: Sequence[int],
        texts: PairTexts,
        decoding: DecodingConfig,
    ):
        self._finisher, self._decoding = finisher, decoding
        self.prompt_ids, self.texts = list(prompt), texts
        self._text, self._refused = "", ""
        self._failure: Failure | None = None
        self._num_texts, self._banned = 0, frozenset[int]()

    @property
    def params(self) -> TextParams:
        """The parameters of the text, which ban the words blamed so far."""
        may_retry = self._decoding.retry_temperature is not None
        params = replace(text_params(self._decoding), user_id=self.texts.user_id)
        return replace(params, banned=self._banned, keeps_prompt=may_retry)

    def unfinished(self, token_ids: list[int]) -> str:
        """Return the part of an unfinished text that may be shown; "" if there is none yet."""
        return self._finisher.unfinished(token_ids, self.texts) or ""

    def whole_sentences(self, token_ids: list[int]) -> str:
        """Return the complete sentences of an unfinished text."""
        return self._finisher.whole_sentences(token_ids, self.texts, self._decoding.text)

    def passes(self, sentences: str, token_ids: list[int]) -> bool:
        """Return whether a text that ended with these `whole_sentences` would pass all checks."""
        rules = self._decoding.text
        return self._finisher.passes(sentences, token_ids, self.prompt_ids, self.texts, rules)

    def again(self, completion: Completion) -> TextParams | None:
        """Finish and check a text; return the parameters of the next one, or None.

        There is no next text if this one passed, or if no further one may be drawn.
        """
        if completion.failure is not None:
            self._text = ""
            return None
        self._text, self._failure = self._finisher.finish(
            completion, self.prompt_ids, self.texts, self._decoding
        )
        self._num_texts += 1
        if self._failure is None:
            return None
        self._refused = self._failure.reason
        temperature = self._decoding.retry_temperature
        if temperature is None or self._num_texts == MOST_TEXTS:
            return None
        to_blame = self._finisher.first_tokens(self._failure.words)
        is_new, self._banned = not to_blame <= self._banned, self._banned | to_blame
        if is_new:
            return self.params
        seed = self._decoding.seed + self._num_texts
        return replace(self.params, temperature=temperature, seed=seed)

    def explanation(self, index: int, completion: Completion) -> Explanation:
        """Return the explanation of the pair at `index`, for the completion that `again` ended."""
        text, failure = self._text, completion.failure
        kind: ExplanationKind = "written"
        if failure is None and self._failure is not None:
            rules = self._decoding.text
            plain, failure = self._finisher.fallback(self.texts, rules, self._failure)
            text, kind = (plain, "plain") if failure is None else (text, kind)
        counted = completion.num_tokens or (len(self.prompt_ids), len(completion.token_ids))
        return Explanation(
            index=index,
            text=text,
            num_prompt_tokens=counted[0],
            num_generated_tokens=counted[1],
            finish_reason=completion.finish_reason,
            failure=failure,
            kind=kind,
            refused=self._refused,
        )


def model_fingerprint_of(inputs: Mapping[str, str]) -> str:
    """Return the combined fingerprint of what writes texts, for example `model_inputs`."""
    return fingerprint_of([*inputs.values()])


def checker_of(dataset: Dataset, storage: StorageConfig | None = None) -> Checker:
    """Return a checker of texts about the dataset's items, with its aspects if it has some."""
    aspects = [] if dataset.aspects is None else dataset.aspects["aspect"].to_pylist()
    return Checker(aspects, storage, are_written=dataset.aspects_from == "profiles")
