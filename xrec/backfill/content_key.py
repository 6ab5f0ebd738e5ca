"""The content key of a pair is a hash of everything that the model's text for it depends on.

If the key did not change, the text need not be generated again. The key covers the user's
profile and vector (a history has its effect through the vector), the item's title, profile and
vector, the chosen aspects with their evidence, and the settings of the whole run: language model,
adapter with its prompt template, decoding, dtype. It does not cover which other pairs are in the
run. So a run over other pairs, or with a new graph that has the same vectors, gives a pair the same
key as an earlier run.

The key does not cover the titles of the other items, which a text must not name. The carrying
over checks that by itself (xrec.backfill.explain.name_no_other_item).
"""

import hashlib
import json

from xrec.adapter.pairs import Pair
from xrec.bulk import Identity
from xrec.generate.explainer import Explainer
from xrec.llm.prompt import PairTexts
from xrec.storage import fingerprint_of


def shared_key(identity: Identity) -> str:
    """Return the part of the content key that all pairs of a run have in common."""
    settings = {name: identity.config[name] for name in ("decoding", "dtype")}
    return fingerprint_of(
        [
            settings,
            {name: identity.inputs.get(name) for name in ("base_model", "adapter")},
        ]
    )


def content_key(explainer: Explainer, shared: str, pair: Pair, texts: PairTexts) -> str:
    """Return the content key of a pair with these texts: 16 hex digits of a SHA-256.

    `shared` is the run's `shared_key`.
    """
    digest = hashlib.sha256()
    chosen = json.dumps([list(vars(evidence).values()) for evidence in texts.aspects])
    for text in (shared, texts.user_profile, texts.item_title, texts.item_profile, chosen):
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)
    for vector in (explainer.graph.users[pair.user_index], explainer.graph.items[pair.item_index]):
        digest.update(vector.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
