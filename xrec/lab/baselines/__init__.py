"""Peers: published models that explain recommendations, to compare with.

    train_peer         dataset in, a trained peer out                       (train, trainer)
    write_peer_texts   pairs in, a table of texts like a backfill's out     (texts, task, write)

models      one module a peer: Att2Seq, NRT, PETER, PEPLER
words       texts as rows of words; language_model: as tokens of a language model
aspects     the aspects that PETER+ reads
data        explained pairs as examples; batch: as tensors
progress    when a training stops, and what its best epoch is
build       a config's peer with its first weights
artifact    the trained peer in files
"""

from xrec.lab.baselines.texts import plan_texts, publish_texts, texts_identity, write_peer_texts
from xrec.lab.baselines.train import peer_identity, train_peer

__all__ = [
    "peer_identity",
    "plan_texts",
    "publish_texts",
    "texts_identity",
    "train_peer",
    "write_peer_texts",
]
