"""The peer that a config asks for, with its first weights."""

from dataclasses import dataclass

import torch

from xrec.config.baselines import Att2SeqConfig, NRTConfig, PeerConfig, PETERConfig
from xrec.lab.baselines.language_model import load_language_model
from xrec.lab.baselines.models.att2seq import Att2Seq
from xrec.lab.baselines.models.nrt import NRT
from xrec.lab.baselines.models.peer import Peer, Ratings
from xrec.lab.baselines.models.pepler import PEPLER
from xrec.lab.baselines.models.peter import PETER
from xrec.lab.baselines.words import BEGIN

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PeerSizes:
    """How many users, items and tokens a peer knows, and how many words of aspects it reads.

    `ratings` is the scale of the ratings, None if none is known.
    """

    num_users: int
    num_items: int
    num_tokens: int
    num_aspect_words: int = 0
    ratings: Ratings | None = None


def build_peer(config: PeerConfig, sizes: PeerSizes, device: torch.device = _CPU) -> Peer:
    """A peer with weights that are drawn with the config's seed, on the CPU.

    `device` is where it will compute. Raises ModelError if PEPLER's language model cannot be had.
    """
    torch.manual_seed(config.seed)
    section, counts = config.recipe, {"num_users": sizes.num_users, "num_items": sizes.num_items}
    words = {"num_tokens": sizes.num_tokens, "begin_id": BEGIN}
    if isinstance(section, Att2SeqConfig):
        return Att2Seq(section, **counts, **words)
    if isinstance(section, NRTConfig):
        return NRT(section, **counts, **words, ratings=sizes.ratings)
    if isinstance(section, PETERConfig):
        aspects = {"num_aspect_words": sizes.num_aspect_words}
        return PETER(section, **counts, **words, **aspects, ratings=sizes.ratings)
    return PEPLER(section, load_language_model(config, device), **counts)
