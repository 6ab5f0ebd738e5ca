"""The peer that a config asks for, with its first weights."""

from dataclasses import dataclass

import torch

from xrec.config.peers import PeerConfig
from xrec.peers.models.att2seq import Att2Seq
from xrec.peers.models.peer import Peer
from xrec.peers.words import BEGIN


@dataclass(frozen=True)
class PeerSizes:
    """How many users, items and tokens a peer knows."""

    num_users: int
    num_items: int
    num_tokens: int


def build_peer(config: PeerConfig, sizes: PeerSizes) -> Peer:
    """A peer with weights that are drawn with the config's seed."""
    torch.manual_seed(config.seed)
    return Att2Seq(config.recipe, **vars(sizes), begin_id=BEGIN)
