"""The reference's NLL and the texts of held-out pairs, with the own or another user's vector."""

from collections.abc import Sequence

from xrec.adapter.pairs import Pair
from xrec.config import DecodingConfig
from xrec.data import HeldOutPair
from xrec.errors import ModelError
from xrec.generate.engine import LikelihoodParams
from xrec.generate.explainer import Explainer, Explanation
from xrec.llm.examples import Example
from xrec.llm.prompt import PromptTooLongError
from xrec.progress import progress


def own_pairs(pairs: Sequence[HeldOutPair]) -> list[Pair]:
    """Prompts to be made with each user's own vector."""
    return [Pair(pair.user_index, pair.item_index) for pair in pairs]


def shuffled_pairs(pairs: Sequence[HeldOutPair], others: Sequence[int]) -> list[Pair]:
    """The same prompts with the vector of another user, by index."""
    return [
        Pair(pair.user_index, pair.item_index, other)
        for pair, other in zip(pairs, others, strict=True)
    ]


def fitting_pairs(explainer: Explainer, pairs: Sequence[HeldOutPair]) -> list[bool]:
    """False for each pair whose prompt is too long for the adapter's `prompt.max_prompt_tokens`."""
    indices, fits = own_pairs(pairs), [True] * len(pairs)
    for place, texts in enumerate(explainer.pairs.texts_of(indices)):
        try:
            explainer.pairs.prompt(indices[place], texts)
        except PromptTooLongError:
            fits[place] = False
    return fits


def reference_nll(
    explainer: Explainer, pairs: Sequence[Pair], references: Sequence[str], description: str
) -> list[float]:
    """Mean NLL of each pair's reference and its end token, in nats a token.

    Raises PromptTooLongError, and ModelError if the engine cannot weigh a reference.
    """
    examples = [
        explainer.pairs.example(pair, reference, said)
        for pair, reference, said in zip(
            pairs, references, explainer.pairs.texts_of(pairs), strict=True
        )
    ]
    return [
        -sum(of_tokens) / len(of_tokens)
        for of_tokens in token_log_likelihoods(explainer, examples, description)
    ]


def token_log_likelihoods(
    explainer: Explainer, examples: Sequence[Example], description: str
) -> list[tuple[float, ...]]:
    """The log-likelihood of each label of each example, in nats.

    Raises ModelError if the engine cannot weigh one.
    """
    completions = explainer.engine.complete(
        [(example.prompt_ids, LikelihoodParams(tuple(example.label_ids))) for example in examples]
    )
    by_index: dict[int, tuple[float, ...]] = {}
    for completion in progress(completions, description, len(examples)):
        if completion.failure is not None:
            raise ModelError(
                f"a reference cannot be weighed: {completion.failure.message}",
                code=completion.failure.reason,
            )
        by_index[completion.index] = completion.log_likelihoods or ()
    return [by_index[index] for index in range(len(examples))]


def nll_own_and_shuffled(
    explainer: Explainer, pairs: Sequence[HeldOutPair], others: Sequence[int], fits: Sequence[bool]
) -> list[tuple[float, float] | tuple[None, None]]:
    """`reference_nll` of each pair with the own vector and with that of `others` (user indices).

    `fits` is what `fitting_pairs` says; of a pair that does not fit there is None.
    """
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    others = [other for other, fit in zip(others, fits, strict=True) if fit]
    references = [pair.reference for pair in kept]
    own = reference_nll(explainer, own_pairs(kept), references, "NLL, own vector")
    shuffled = reference_nll(
        explainer, shuffled_pairs(kept, others), references, "NLL, another user's vector"
    )
    found = iter(zip(own, shuffled, strict=True))
    return [next(found) if fit else (None, None) for fit in fits]


def generated_texts(
    explainer: Explainer, pairs: Sequence[Pair], decoding: DecodingConfig, description: str
) -> list[Explanation]:
    """The explanation of each pair, also if a rule refuses it; raises PromptTooLongError."""
    texts = explainer.pairs.texts_of(pairs)
    prompts = [explainer.pairs.prompt(pair, said) for pair, said in zip(pairs, texts, strict=True)]
    explanations = explainer.explain(prompts, texts, decoding)
    by_index = {text.index: text for text in progress(explanations, description, len(prompts))}
    return [by_index[index] for index in range(len(prompts))]
