"""Held-out pairs with their scores, from which metrics and reports are computed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from xrec.adapter.pairs import Pair
from xrec.config import DecodingConfig
from xrec.data import HeldOutPair
from xrec.data.language import composed
from xrec.generate.explainer import Explainer, Explanation
from xrec.generate.scoring import (
    fitting_pairs,
    generated_texts,
    nll_own_and_shuffled,
    own_pairs,
    shuffled_pairs,
)
from xrec.schemas import PAIRS

# The schema of `pairs.parquet` in an evaluation.
SCORED_PAIRS = pa.schema(
    [
        *PAIRS,
        pa.field("reference", pa.string(), nullable=False),
        pa.field("explanation", pa.string()),
        pa.field("nll_own", pa.float64()),
        pa.field("nll_shuffled", pa.float64()),
        pa.field("shuffled_explanation", pa.string()),
        pa.field("aspect", pa.string()),
        pa.field("aspects", pa.list_(pa.field("element", pa.string(), nullable=False))),
        pa.field("item_title", pa.string(), nullable=False),
        pa.field("names_item", pa.bool_()),
        pa.field("other_title", pa.string()),
        pa.field("names_complaint", pa.bool_()),
    ]
)
_MUCH = 1 / 3  # largest share of texts that a template may write without a warning


@dataclass(frozen=True)
class ScoredPair:
    """A held-out pair: `reference` is its text in the dataset, `explanation` the generated one.

    `shuffled_explanation` is generated with another user's vector if an aspect is planted, and
    None otherwise; both texts are "" if none was written or a rule refused it. `nll_own` and
    `nll_shuffled` are the reference's mean negative log-likelihood, in nats per token, with the
    user's own vector and with another user's; both are None if the prompt is too long. `aspect` is
    the correct aspect to name, `aspects` are all aspects of the item; both are None outside the
    generated sample. `names_item`: whether the explanation contains the item's title, None if it
    has no title. `other_title`: the title of another item that the explanation names, or None.
    `names_complaint`: whether the explanation names what the user complains of, None if they do not
    complain.
    """

    user_id: str
    item_id: str
    reference: str
    explanation: str
    nll_own: float | None
    nll_shuffled: float | None
    shuffled_explanation: str | None = None
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None
    item_title: str = ""
    names_item: bool | None = None
    other_title: str | None = None
    names_complaint: bool | None = None

    @property
    def gain(self) -> float | None:
        """How much likelier the reference is with the own vector, in nats per token."""
        if self.nll_own is None or self.nll_shuffled is None:
            return None
        return self.nll_shuffled - self.nll_own


@dataclass(frozen=True)
class Coverage:
    """The number of held-out pairs with an explanation, and of those without, by reason.

    A pair without a text counts as an empty text in every metric. num_plain: the number of
    explained pairs whose text is a plain sentence from a template.
    """

    num_explained: int
    failed: Mapping[str, int]
    num_plain: int = 0

    @classmethod
    def of(cls, written: Sequence[Explanation], num_too_long: int) -> "Coverage":
        """Count the explanations, and the pairs whose prompt is too long."""
        failed = Counter[str](text.failure.reason for text in written if text.failure is not None)
        failed += Counter[str](prompt_too_long=num_too_long)
        kinds = Counter(text.kind for text in written if text.failure is None)
        return cls(kinds.total(), dict(failed), kinds["plain"])

    @property
    def num_pairs(self) -> int:
        """The number of pairs, with a text or without."""
        return self.num_explained + sum(self.failed.values())

    @property
    def sentence(self) -> str:
        """The counts in words."""
        num_failed, num_pairs = sum(self.failed.values()), self.num_pairs
        if not num_failed:
            whole = "All {:,} held-out pairs have a text; none was refused."
            return whole.format(num_pairs) + self._warning
        by_reason = sorted(self.failed.items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason)
        return (
            f"Of {num_pairs:,} held-out pairs, {num_failed:,} have no text (refused or failed) and "
            f"count as empty texts: {reasons}.{self._warning}"
        )

    @property
    def _warning(self) -> str:
        """A warning if a template wrote many of the texts; otherwise empty."""
        if self.num_plain <= _MUCH * self.num_explained:
            return ""
        return (
            f" Warning: {self.num_plain:,} of the texts are plain sentences, written by a template "
            "rather than by the language model; see docs/generation.md."
        )


def score_pairs(
    explainer: Explainer, pairs: Sequence[HeldOutPair], decoding: DecodingConfig
) -> tuple[list[ScoredPair], Coverage]:
    """Explain pairs, and score them with the user's own vector and with another user's.

    The same rules are applied to both texts. The pairs must belong to at least two users. Without
    an adapter there are no vectors, so the texts are only written once, and nothing is weighed.
    """
    users = other_users([pair.user_id for pair in pairs])
    others = [explainer.dataset.user_index(user) for user in users]
    fits = fitting_pairs(explainer, pairs)
    has_vectors = explainer.graph is not None
    weighed: list[tuple[float, float] | tuple[None, None]] = [(None, None)] * len(pairs)
    if has_vectors:
        weighed = nll_own_and_shuffled(explainer, pairs, others, fits)
    can_be_asked = {
        pair: other for pair, other, fit in zip(pairs, others, fits, strict=True) if fit
    }
    asked = [*can_be_asked]
    written = generated_texts(explainer, own_pairs(asked), decoding, "explanations")
    texts = _shown(pairs, asked, written)
    planted = [pair for pair in pairs if has_vectors and pair.aspect is not None]
    shuffled_asked = [pair for pair in planted if pair in can_be_asked]
    prompts = shuffled_pairs(shuffled_asked, [can_be_asked[pair] for pair in shuffled_asked])
    of_others = generated_texts(explainer, prompts, decoding, "texts with another user's vector")
    shuffled = _shown(planted, shuffled_asked, of_others)
    scored = [
        _scored(explainer, pair, texts[pair], nll, shuffled.get(pair))
        for pair, nll in zip(pairs, weighed, strict=True)
    ]
    return scored, Coverage.of(written, len(pairs) - len(asked))


def _shown(
    pairs: Sequence[HeldOutPair], asked: Sequence[HeldOutPair], written: Sequence[Explanation]
) -> dict[HeldOutPair, str]:
    """Return the text of each pair, "" if none was written or a rule refused it."""
    texts = dict.fromkeys(pairs, "")
    both = zip(asked, written, strict=True)
    return texts | {pair: text.text for pair, text in both if text.failure is None}


def other_users(user_ids: Sequence[str], seed: int = 0) -> list[str]:
    """Return another user for each pair's user: the next in a seeded ring of distinct users.

    Each user replaces exactly one other, whatever the order of the pairs; all pairs of a user get
    the same replacement. There must be at least two users.
    """
    distinct = sorted(set(user_ids))
    assert len(distinct) > 1
    ring = [distinct[index] for index in np.random.default_rng(seed).permutation(len(distinct))]
    following = dict(zip(ring, ring[1:] + ring[:1], strict=True))
    return [following[user_id] for user_id in user_ids]


def scored_pairs_table(pairs: Sequence[ScoredPair]) -> pa.Table:
    """Return the pairs as a table (schema SCORED_PAIRS), in the same order."""
    return pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=SCORED_PAIRS)


def _scored(
    explainer: Explainer,
    pair: HeldOutPair,
    text: str,
    nll: tuple[float, float] | tuple[None, None],
    shuffled: str | None,
) -> ScoredPair:
    said = explainer.pairs.texts(Pair(pair.user_index, pair.item_index))
    titles, title, written = explainer.pairs.titles, said.item_title, composed(text)
    return ScoredPair(
        pair.user_id,
        pair.item_id,
        pair.reference,
        text,
        nll_own=nll[0],
        nll_shuffled=nll[1],
        shuffled_explanation=shuffled,
        aspect=pair.aspect,
        aspects=pair.aspects,
        item_title=title,
        names_item=bool(titles.own_spans(written, title)) if title else None,
        other_title=titles.other_title(written, title, (said.user_profile, said.item_profile)),
        names_complaint=bool(explainer.checker.complaint(text, said)) if said.complaints else None,
    )
