"""The contestants that are published models, each an `xrec peer` run."""

import logging
from dataclasses import replace

from xrec.config.baselines import PeerConfig
from xrec.config.comparison import ComparisonConfig
from xrec.lab.baselines import train_peer, write_peer_texts
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.made import Costs, Made, texts_of_run
from xrec.lab.compare.pairs import ComparedPairs

logger = logging.getLogger("xrec")


def peer_run(config: ComparisonConfig, entry: Entry, pairs_uri: str) -> PeerConfig:
    """The run of an entry, with its outputs in its folder."""
    return config.peer_of(
        entry.contestant,
        entry.drawn_with,
        pairs=pairs_uri,
        model=(entry.location / "peer").uri,
        texts=(entry.location / "explanations").uri,
    )


def peer_texts(config: ComparisonConfig, entry: Entry, pairs: ComparedPairs) -> Made:
    """Train the entry's peer and write its texts, as far as that is not done.

    Raises what `train_peer` and `write_peer_texts` raise.
    """
    peer = peer_run(config, entry, pairs.uri)
    logger.info("%s: training", entry.name)
    trained = train_peer(peer)
    logger.info("%s: writing texts", entry.name)
    manifest = write_peer_texts(peer)
    made = texts_of_run(entry.location / "explanations", manifest, config.storage)
    costs = Costs(
        training_seconds=trained.metrics["training_seconds"],
        num_trained_parameters=trained.metrics["num_trained_parameters"],
        pairs_per_second=manifest.metrics["pairs_per_second"],
    )
    return replace(made, costs=costs)
