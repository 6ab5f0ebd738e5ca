"""Pairs in, explanations out: dataset, graph, adapter and language model around an engine.

loading makes one from artifacts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from xrec.adapter.pairs import PairPrompts
from xrec.checks import Checker
from xrec.config import DecodingConfig, StorageConfig
from xrec.data import Dataset
from xrec.generate.engine import Completion, Failure, FinishReason, TextParams, text_params
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.text_rules import ExplanationKind, TextFinisher
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.prompt import PairTexts

MOST_TEXTS = 5
"""So many texts of a pair are drawn at most."""


@dataclass(frozen=True)
class Explanation:
    """The text of the pair at `index`; `failure` says why it cannot be used, if so.

    kind: written by the model, or plain: a sentence from the evidence in its place.
    refused: why the last text that was refused could not be used, "" if none was. A text that is
        written and has one is that of a later try.
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
    """Explains pairs of one dataset with one model.

    `model` is None with vLLM, which does not give its model away. `model_fingerprint` identifies
    language model, adapter and trained graph together. `finisher` makes explanations of the texts
    that `engine` writes, and `checker` checks them.
    """

    model: PreTrainedModel | None
    engine: SharedEngine
    pairs: PairPrompts
    dataset: Dataset
    graph: GraphEmbeddings
    model_fingerprint: str
    checker: Checker

    def __post_init__(self) -> None:
        self.finisher = TextFinisher(self.pairs.builder, self.pairs.titles, self.checker)

    def explain(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[PairTexts], decoding: DecodingConfig
    ) -> Iterator[Explanation]:
        """Yield the explanation of each prompt as it is finished.

        `prompts` are made by `self.pairs.prompt`, `texts` by `self.pairs.texts` of the same pairs.
        A text that is refused is drawn again if `decoding.text` says so, and what is refused for
        the last time gets its fallback. The model writes nothing of a pair whose text would be
        refused whatever it says.
        """
        asked: list[tuple[int, Asked]] = []
        for index, (prompt, said) in enumerate(zip(prompts, texts, strict=True)):
            failure = self.finisher.failure_of_any(said, decoding.text)
            if failure is None:
                asked.append((index, Asked(self.finisher, prompt, said, decoding)))
            else:
                yield Explanation(index, "", len(prompt), 0, "failed", failure)
        requests = [(one.prompt_ids, one.params) for _, one in asked]
        for completion in self.engine.complete(
            requests, lambda one: asked[one.index][1].again(one)
        ):
            index, one = asked[completion.index]
            yield one.explanation(index, completion)


class Asked:
    """The request for one pair's text, and what becomes of its completions.

    Each completion goes to `again` first, and the one after which no other text is drawn goes to
    `explanation`. Neither uses the engine; both take milliseconds, in which an event loop should
    not wait.

    A text that is refused is drawn again if `decoding` says so: in the same way without the words
    that were to blame, or at another temperature if none was, `MOST_TEXTS` texts in all.
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
        """How the text is drawn; once words of it were to blame, without these words."""
        may_be_refused = self._decoding.retry_temperature is not None
        params = text_params(self._decoding)
        return replace(params, banned=self._banned, keeps_prompt=may_be_refused)

    def unfinished(self, token_ids: list[int]) -> str:
        """What a reader may see of a text that is being written; "" if all of it must wait."""
        return self._finisher.unfinished(token_ids, self.texts) or ""

    def whole_sentences(self, token_ids: list[int]) -> str:
        """The sentences of it that have ended; the last one of a text never has."""
        return self._finisher.whole_sentences(token_ids, self.texts, self._decoding.text)

    def passes(self, sentences: str, token_ids: list[int]) -> bool:
        """Whether the `whole_sentences` would pass all checks if the text ended with them."""
        rules = self._decoding.text
        return self._finisher.passes(sentences, token_ids, self.prompt_ids, self.texts, rules)

    def again(self, completion: Completion) -> TextParams | None:
        """Finish and check a text that has ended.

        Returns how the next one is drawn, or None if there is no next one.
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
        """Return the explanation of the pair at `index`, whose last text is `completion`.

        `again` has returned None for it.
        """
        text, failure = self._text, completion.failure
        kind: ExplanationKind = "written"
        if failure is None and self._failure is not None:
            rules = self._decoding.text
            plain, failure = self._finisher.fallback(self.texts, rules, self._failure)
            text, kind = (plain, "plain") if failure is None else (text, kind)
        return Explanation(
            index=index,
            text=text,
            num_prompt_tokens=len(self.prompt_ids),
            num_generated_tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            failure=failure,
            kind=kind,
            refused=self._refused,
        )


def checker_of(dataset: Dataset, storage: StorageConfig | None = None) -> Checker:
    """Checks texts about the items of `dataset`, whose vocabulary it takes if it has one."""
    aspects = [] if dataset.aspects is None else dataset.aspects["aspect"].to_pylist()
    return Checker(aspects, storage, are_written=dataset.aspects_from == "profiles")
