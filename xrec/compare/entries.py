"""The entries of a comparison: a contestant with a seed, each in a folder of its own."""

from dataclasses import dataclass

from xrec.config.comparison import ComparisonConfig
from xrec.storage import Location, location_of


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
