"""The entries of a comparison: a contestant with a seed, each in a folder of its own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xrec.config.comparison import ComparisonConfig
from xrec.errors import ArtifactMismatchError
from xrec.storage import Kind, Location, Manifest, finished, location_of

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Entry:
    """A contestant with a seed.

    seed: None if the contestant's texts do not depend on it; there is one entry of it then.
    location: the folder that holds what the contestant makes and its scores.
    """

    contestant: str
    seed: int | None
    location: Location

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.contestant if self.seed is None else f"{self.contestant}-{self.seed}"

    @property
    def drawn_with(self) -> int:
        """The seed to draw with, where one is asked for."""
        return self.seed or 0


def entries_of(config: ComparisonConfig) -> dict[str, list[Entry]]:
    """The entries of each contestant, in the order of the config, a seed each."""
    comparison = location_of(config, config.makes)
    return {
        contestant: [
            _entry(comparison, contestant, seed)
            for seed in (config.seeds if config.is_seeded(contestant) else (None,))
        ]
        for contestant in config.contestants
    }


def _entry(comparison: Location, contestant: str, seed: int | None) -> Entry:
    entry = Entry(contestant, seed, comparison)
    return Entry(contestant, seed, comparison / entry.name)


def kept_manifest(
    location: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """`finished`, and None where another run's artifact is: it costs little and is made again."""
    try:
        return finished(location, kind, config, inputs)
    except ArtifactMismatchError as error:
        logger.info("%s; they are made again", str(error).rsplit("\n", 1)[0])
        return None
