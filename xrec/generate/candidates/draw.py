"""Draws several texts for each prompt from one prefill, and weighs those that can be used.

The texts are weighed twice: with the user's own vector, and with another user's in its place. The
other user is the same for a user each time. Prompts of one user share their beginning, so most of
a weighing is the text itself if collaborative tokens stand after the texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xrec.checks import Checker
from xrec.config.decoding import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.candidates.features import features_of
from xrec.generate.engine import Completion, Engine, Failure, LikelihoodParams, text_params
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PairTexts

_STEP = 7919  # a prime: how far another user is away, modulo the number of users

Finish = Callable[[Completion], tuple[str, Failure | None]]
"""Makes an explanation of a completion, or says why it cannot be used."""


@dataclass(frozen=True)
class Candidate:
    """One text of the prompt at `index`. `features` are empty if it cannot be used."""

    index: int
    text: str
    completion: Completion
    failure: Failure | None
    features: tuple[float, ...] = ()


def draw_candidates(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[PairTexts],
    decoding: DecodingConfig,
    finish: Finish,
    checker: Checker,
    vocabulary: Vocabulary,
    end_token: int,
) -> list[list[Candidate]]:
    """`decoding.num_candidates` texts of each prompt, in the order in which they were drawn."""
    params = replace(text_params(decoding), num_texts=decoding.num_candidates)
    found: list[list[Candidate]] = [[] for _ in prompts]
    for completion in engine.complete([(prompt, params) for prompt in prompts]):
        place = completion.index
        text, failure = "", completion.failure
        if failure is None:
            text, failure = finish(completion)
        found[place].append(Candidate(place, text, completion, failure))
    for candidates in found:
        candidates.sort(key=lambda candidate: candidate.completion.number)
    return _weighed(engine, prompts, texts, found, checker, vocabulary, end_token)


def _weighed(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[PairTexts],
    found: list[list[Candidate]],
    checker: Checker,
    vocabulary: Vocabulary,
    end_token: int,
) -> list[list[Candidate]]:
    usable = [each for candidates in found for each in candidates if each.failure is None]
    # After a whole opening a model may end at once: what it wrote is its end token.
    requests: list[tuple[Sequence[int], LikelihoodParams]] = []
    for each in usable:
        params = LikelihoodParams(tuple(each.completion.token_ids) or (end_token,))
        own = prompts[each.index]
        requests += [(own, params), (with_another_user(own, vocabulary), params)]
    means = [0.0] * len(requests)
    for completion in engine.complete(requests):
        if completion.log_likelihoods is None:
            assert completion.failure is not None
            raise ModelError(f"a text cannot be weighed: {completion.failure.message}")
        means[completion.index] = sum(completion.log_likelihoods) / len(completion.log_likelihoods)
    weighed = iter(
        replace(
            each,
            features=features_of(
                each.text, texts[each.index], checker, means[2 * place], means[2 * place + 1]
            ),
        )
        for place, each in enumerate(usable)
    )
    return [
        [next(weighed) if each.failure is None else each for each in candidates]
        for candidates in found
    ]


def with_another_user(prompt: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The prompt with another user's tokens in place of the user's; the same one each time."""
    first, entities = vocabulary.num_text_tokens, vocabulary.num_entities

    def other(token: int) -> int:
        number, entity = divmod(token - first, entities)
        if token < first or entity >= vocabulary.num_users:
            return token
        return first + number * entities + (entity + _STEP) % vocabulary.num_users

    return [other(token) for token in prompt]
