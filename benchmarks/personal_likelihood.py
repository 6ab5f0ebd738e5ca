"""How likely references are to a model that is told of their own user, or of another of the item.

Of two users of an item, each one's reference is weighed with the own prompt and with crossed ones.
They are matched right if the sum of the own log-likelihoods is above that of the crossed ones.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.personal_data import Indices, Pairs
from benchmarks.report import Values, explaining
from xrec.adapter.pairs import Pair
from xrec.checks import AspectNames
from xrec.config import EngineConfig, LLMConfig
from xrec.data import Dataset, read_dataset
from xrec.data.language import composed
from xrec.errors import ArtifactMismatchError, DataError
from xrec.generate.explainer import Explainer
from xrec.generate.scoring import token_log_likelihoods
from xrec.llm.loss import Example
from xrec.llm.prompt import PromptBuilder, PromptTooLongError
from xrec.storage import open_location, read_manifest
from xrec.text.writers import load_explainer

Ask = tuple[Pair, int]
"""A prompt, and the row of the reference that follows it."""

_TIE = 1e-3  # nats of two references: what is the same to the model differs by rounding only

CROSSINGS: Mapping[str, Callable[[int, int, int], Pair]] = {
    "prompts": lambda user, other, item: Pair(other, item),
    "vectors": lambda user, other, item: Pair(user, item, other),
    "aspects": lambda user, other, item: Pair(user, item, None, other),
    "vectors and aspects": lambda user, other, item: Pair(user, item, other, other),
}
"""The prompt for `user` and `item` with all, or with this part, that is of the `other` user."""


def draw_couples(pairs: Pairs, max_couples: int, seed: int) -> Indices:
    """Return at most so many of the pairs' couples, (C, 2), drawn by the seed."""
    order = np.random.default_rng([seed, 22]).permutation(len(pairs.couples))
    return pairs.couples[np.sort(order[:max_couples])]


def weigh(
    explainer: Explainer,
    pairs: Pairs,
    couples: Indices,
    finder: AspectNames | None,
    crossings: Sequence[str] = tuple(CROSSINGS),
) -> dict[str, Values]:
    """Return the figures of each couple, (C,), by name; NaN where a prompt is too long.

    `crossings` are names of CROSSINGS. Aspects are chosen without the pair's own review.

    NLLs are in nats a token, and gains are how much the crossed ones are above the own ones. Those
    of aspect words count the tokens alone that an aspect's name in the reference consists of.
    """
    asks = {"": _asks(pairs, couples, lambda user, other, item: Pair(user, item))}
    asks |= {name: _asks(pairs, couples, CROSSINGS[name]) for name in crossings}
    sums = _sums(explainer, pairs, dict.fromkeys(ask for of in asks.values() for ask in of), finder)
    totals = {
        name: np.array([sums[ask] for ask in of_crossing]).reshape(-1, 2, 2, 2).sum(axis=1)
        for name, of_crossing in asks.items()
    }  # each (C, 2, 2): of all tokens and of aspects' names, the log-likelihood and the number
    figures: dict[str, Values] = {}
    for part, words in enumerate(("", ", aspect words")[: 1 if finder is None else 2]):
        own, count = totals[""][:, part].T
        count = np.where(count > 0, count, np.nan)
        figures["NLL" if not part else "NLL of aspect words"] = -own / count
        for name in crossings:
            gain = own - totals[name][:, part, 0] + 0 * count
            figures[f"gain by {name}{words}"] = gain / count
            figures[f"2 x 2 by {name}{words}"] = _right(gain)
    return figures


def aspect_tokens(builder: PromptBuilder, text: str, finder: AspectNames) -> NDArray[np.bool_]:
    """Return which tokens of an explanation and its end token are in an aspect's name, (T,).

    Raises DataError if the tokenizer does not tell where the text's tokens are.
    """
    text = text.strip()
    encoded = builder.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids = builder.encode_explanation(text)
    if list(encoded["input_ids"]) != ids[:-1]:
        raise DataError(
            f"{text!r} holds the name of a special token, so its words have no place",
            code="special_token",
        )
    spans = [(named.start, named.end) for named in finder.find(text)]
    inside = [
        any(start < stop_name and stop > start_name for start_name, stop_name in spans)
        for start, stop in encoded["offset_mapping"]
    ]
    return np.array([*inside, False])


def _asks(pairs: Pairs, couples: Indices, cross: Callable[[int, int, int], Pair]) -> list[Ask]:
    """Return two for each couple: what is asked of its first and of its second reference."""
    of = pairs.pairs
    return [
        (cross(of[row].user_index, of[other].user_index, of[row].item_index), int(row))
        for first, second in couples
        for row, other in ((first, second), (second, first))
    ]


def _sums(
    explainer: Explainer, pairs: Pairs, asks: Mapping[Ask, None], finder: AspectNames | None
) -> dict[Ask, Values]:
    """Return the log-likelihood and the number of all tokens, and of those of aspects, (2, 2).

    Prompts of the same tokens are computed once, such as those that are crossed by aspects where
    the prompt has none.
    """
    examples: dict[Ask, Example] = {}
    texts = explainer.pairs.texts_of([prompt for prompt, _ in asks], leave_out_own=True)
    for (prompt, row), said in zip(asks, texts, strict=True):
        try:
            examples[prompt, row] = explainer.pairs.example(
                prompt, pairs.pairs[row].reference, said
            )
        except PromptTooLongError:
            continue
    distinct = {_key(example, row): example for (_, row), example in examples.items()}
    weighed = token_log_likelihoods(explainer, list(distinct.values()), "likelihoods")
    found = dict(zip(distinct, weighed, strict=True))
    are_aspects = {row: _are_aspects(explainer, pairs, row, finder) for _, row in examples}
    sums = {ask: np.full((2, 2), np.nan) for ask in asks}
    for ask, example in examples.items():
        values, chosen = np.array(found[_key(example, ask[1])]), are_aspects[ask[1]]
        sums[ask] = np.array(
            [[values.sum(), len(values)], [values[chosen].sum(), np.count_nonzero(chosen)]]
        )
    return sums


def _key(example: Example, row: int) -> tuple[tuple[int, ...], int]:
    return tuple(example.prompt_ids), row


def _are_aspects(
    explainer: Explainer, pairs: Pairs, row: int, finder: AspectNames | None
) -> NDArray[np.bool_]:
    prompts = explainer.pairs
    text = composed(pairs.pairs[row].reference)
    own = prompts.titles.own_spans(text, pairs.titles[row])
    text = prompts.builder.placeholder.hide(text, own)
    if finder is None:
        return np.zeros(len(prompts.builder.encode_explanation(text)), dtype=np.bool_)
    return aspect_tokens(prompts.builder, text, finder)


def _right(gain: Values) -> Values:
    right = np.where(np.abs(gain) < _TIE, 0.5, gain > 0)
    return np.where(np.isnan(gain), np.nan, right)


def same_dataset(sources: Sequence[str]) -> Dataset:
    """The dataset of all WORKSPACEs; raises ArtifactMismatchError if they have several."""
    places = {f"{source.partition('#')[0]}/dataset" for source in sources}
    found = {place: read_manifest(open_location(place), "dataset").fingerprint for place in places}
    if len(set(found.values())) > 1:
        raise ArtifactMismatchError(
            f"datasets {found}; expected the same one in all workspaces, whose pairs are compared",
            code="other_dataset",
            key="dataset",
            saw=found,
        )
    return read_dataset(open_location(min(places)))


def load_model_of(source: str, llm: LLMConfig) -> Explainer:
    """The model of WORKSPACE, or of WORKSPACE#URI with another adapter."""
    workspace, _, adapter = source.partition("#")
    return load_explainer(explaining(workspace, llm, EngineConfig(), adapter))
