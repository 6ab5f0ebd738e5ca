"""The texts of the contestant lora: its low-rank weights are trained, merged, and written with."""

import logging
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from xrec.config.comparison import ComparisonConfig
from xrec.config.lora import LoraConfig
from xrec.config.shared import StorageConfig
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.lora.train import train_lora
from xrec.lab.compare.lora.weights import WEIGHTS, merged
from xrec.lab.compare.made import Costs, Made
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.compare.text_only import text_only_texts
from xrec.storage import open_location

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class MergeLora:
    """Adds the low-rank weights at a URI to a loaded model (`Adapt`)."""

    uri: str
    config: LoraConfig
    storage: StorageConfig

    def __call__(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with the sum of both."""
        data = (open_location(self.uri, self.storage) / WEIGHTS).read_bytes()
        return merged(model, self.config, data)


def lora_texts(config: ComparisonConfig, entry: Entry, pairs: ComparedPairs) -> Made:
    """Train the entry's weights and write its texts, as far as that is not done.

    Raises what `train_lora` and a backfill raise.
    """
    lora, location = config.lora_of(entry.drawn_with), entry.location / "lora"
    logger.info("%s: training", entry.name)
    manifest = train_lora(config, lora, location)
    made = text_only_texts(
        config,
        entry,
        pairs,
        inputs={"adapter": manifest.fingerprint},
        adapt=MergeLora(location.shared_uri, lora, config.storage),
    )
    costs = Costs(
        training_seconds=manifest.metrics["training_seconds"],
        num_trained_parameters=manifest.metrics["num_trained_parameters"],
        pairs_per_second=made.costs.pairs_per_second,
    )
    return replace(made, costs=costs)
