"""The peer that a config asks for, with its first weights."""

from dataclasses import dataclass

import torch

from xrec.config.peers import Att2SeqConfig, PeerConfig
from xrec.peers.models.att2seq import Att2Seq
from xrec.peers.models.nrt import NRT
from xrec.peers.models.peer import Peer, Ratings
from xrec.peers.words import BEGIN


@dataclass(frozen=True)
class PeerSizes:
    """How many users, items and tokens a peer knows, and the scale of ratings, if there are any."""

    num_users: int
    num_items: int
    num_tokens: int
    ratings: Ratings | None = None


def build_peer(config: PeerConfig, sizes: PeerSizes) -> Peer:
    """A peer with weights that are drawn with the config's seed."""
    torch.manual_seed(config.seed)
    section = config.recipe
    counts = {
        "num_users": sizes.num_users,
        "num_items": sizes.num_items,
        "num_tokens": sizes.num_tokens,
        "begin_id": BEGIN,
    }
    if isinstance(section, Att2SeqConfig):
        return Att2Seq(section, **counts)
    return NRT(section, **counts, ratings=sizes.ratings)
