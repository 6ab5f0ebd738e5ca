"""The content key of a pair: a hash of all that its explanation depends on. Equal keys: there is nothing to generate again.

It covers the user's profile and vector (a history speaks through the vector), the item's title, profile and vector, and the
settings that the whole run shares: language model, adapter with its prompt template, decoding, dtype. It does not cover
who else is in the run, so a run over other pairs, or over a graph with the same vectors, finds the keys of an earlier one.
"""

import hashlib

from xrec.adapter.pairs import Pair
from xrec.backfill.identity import RunIdentity
from xrec.generate.explainer import Explainer
from xrec.storage import fingerprint_of


def shared_key(identity: RunIdentity) -> str:
    """What all pairs of a run have in common."""
    settings = {name: identity.config[name] for name in ("decoding", "dtype")}
    return fingerprint_of(
        [settings, {name: identity.inputs[name] for name in ("base_model", "adapter")}]
    )


def content_key(explainer: Explainer, shared: str, pair: Pair) -> str:
    """16 hex digits of the SHA-256 of what the pair's explanation depends on; `shared` is the run's `shared_key`."""
    texts = explainer.pairs.texts(pair)
    digest = hashlib.sha256()
    for text in (shared, texts.user_profile, texts.item_title, texts.item_profile):
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)
    for vector in (explainer.graph.users[pair.user_index], explainer.graph.items[pair.item_index]):
        digest.update(vector.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
