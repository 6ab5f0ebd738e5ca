"""Score held-out pairs: the reference's NLL and the texts, with the user's or another's vector."""

from collections.abc import Sequence

from xrec.adapter.pairs import Pair
from xrec.config import DecodingConfig
from xrec.data import HeldOutPair
from xrec.errors import ModelError
from xrec.generate.engine import LikelihoodParams
from xrec.generate.explainer import Explainer, Explanation
from xrec.llm.loss import Example
from xrec.llm.prompt import PromptTooLongError
from xrec.progress import progress


def own_pairs(pairs: Sequence[HeldOutPair]) -> list[Pair]:
    """Return the pairs with each user's own vector."""
    return [Pair(pair.user_index, pair.item_index) for pair in pairs]


def shuffled_pairs(pairs: Sequence[HeldOutPair], others: Sequence[int]) -> list[Pair]:
    """Return the pairs with the vectors of the users with the indices `others`."""
    return [
        Pair(pair.user_index, pair.item_index, other)
        for pair, other in zip(pairs, others, strict=True)
    ]


def fitting_pairs(explainer: Explainer, pairs: Sequence[HeldOutPair]) -> list[bool]:
    """Return whether each pair's prompt fits in the adapter's `prompt.max_prompt_tokens`."""
    indices, fits = own_pairs(pairs), [True] * len(pairs)
    for index, texts in enumerate(explainer.pairs.texts_of(indices)):
        try:
            explainer.pairs.prompt(indices[index], texts)
        except PromptTooLongError:
            fits[index] = False
    return fits


def reference_nll(
    explainer: Explainer, pairs: Sequence[Pair], references: Sequence[str], description: str
) -> list[float]:
    """Return the mean NLL of each pair's reference, including its end token, in nats per token.

    Raises PromptTooLongError, and ModelError if the engine cannot score a reference.
    """
    examples = [
        explainer.pairs.example(pair, reference, texts)
        for pair, reference, texts in zip(
            pairs, references, explainer.pairs.texts_of(pairs), strict=True
        )
    ]
    return [
        -sum(values) / len(values)
        for values in token_log_likelihoods(explainer, examples, description)
    ]


def token_log_likelihoods(
    explainer: Explainer, examples: Sequence[Example], description: str
) -> list[tuple[float, ...]]:
    """Return the log-likelihood of each label of each example, in nats.

    Raises ModelError if the engine cannot score an example.
    """
    completions = explainer.engine.complete(
        [(example.prompt_ids, LikelihoodParams(tuple(example.label_ids))) for example in examples]
    )
    by_index: dict[int, tuple[float, ...]] = {}
    for completion in progress(completions, description, len(examples)):
        if completion.failure is not None:
            raise ModelError(
                f"cannot score a reference: {completion.failure.message}",
                code=completion.failure.reason,
            )
        by_index[completion.index] = completion.log_likelihoods or ()
    return [by_index[index] for index in range(len(examples))]


def nll_own_and_shuffled(
    explainer: Explainer, pairs: Sequence[HeldOutPair], others: Sequence[int], fits: Sequence[bool]
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return the `reference_nll` of each pair, with the user's own vector and with another's.

    others: the indices of the other users. fits: the result of `fitting_pairs`; a pair that does
        not fit gets (None, None).
    """
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    others = [other for other, fit in zip(others, fits, strict=True) if fit]
    references = [pair.reference for pair in kept]
    own = reference_nll(explainer, own_pairs(kept), references, "NLL, own vector")
    shuffled = reference_nll(
        explainer, shuffled_pairs(kept, others), references, "NLL, another user's vector"
    )
    both = iter(zip(own, shuffled, strict=True))
    return [next(both) if fit else (None, None) for fit in fits]


def generated_texts(
    explainer: Explainer, pairs: Sequence[Pair], decoding: DecodingConfig, description: str
) -> list[Explanation]:
    """Return the explanation of each pair, even if it was refused; raise PromptTooLongError."""
    texts = explainer.pairs.texts_of(pairs)
    prompts = [explainer.pairs.prompt(*each) for each in zip(pairs, texts, strict=True)]
    explanations = explainer.explain(prompts, texts, decoding)
    by_index = {text.index: text for text in progress(explanations, description, len(prompts))}
    return [by_index[index] for index in range(len(prompts))]
