"""How far a model says the same when it is asked with another seed, on a sample of the pairs."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping

from xrec.annotate.rows import PairInput, PairText

_WORD = re.compile(r"\w+")


def is_in_sample(row: PairInput, share: float) -> bool:
    """Whether a pair is among the `share` of all pairs that a hash of user and item chooses."""
    name = f"{row.user_id}\n{row.item_id}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(name, digest_size=8, person=b"second seed").digest()
    return int.from_bytes(digest) < share * 2**64


def same_aspects(one: PairText, other: PairText) -> float:
    """Aspects that both name among those that one of them names (Jaccard); 1 if neither has any."""
    names = [{aspect.aspect.casefold() for aspect in text.aspects} for text in (one, other)]
    union = names[0] | names[1]
    return len(names[0] & names[1]) / len(union) if union else 1.0


def same_words(one: PairText, other: PairText) -> float:
    """F1 of the words of the two explanations, as in SQuAD: 1 for the same words in any order."""
    words = [Counter(_WORD.findall(text.explanation.casefold())) for text in (one, other)]
    total = words[0].total() + words[1].total()
    return 2 * (words[0] & words[1]).total() / total if total else 1.0


def agreement_figures(costs: Mapping[str, float]) -> dict[str, float]:
    """The means over the pairs that were asked twice; empty if there are none.

    costs: of all stages; see LanguageModelWriter.
    """
    num_rows = costs.get("second_seed_rows", 0.0)
    if not num_rows:
        return {}
    return {
        "pairs_asked_with_two_seeds": num_rows,
        "same_aspects_of_two_seeds": costs["second_seed_aspects"] / num_rows,
        "same_words_of_two_seeds": costs["second_seed_words"] / num_rows,
    }
