"""Job `train-aspects`: dataset in, aspects out (a score of an item's aspects for a user)."""

from xrec.aspects.artifact import aspects_identity
from xrec.config import TrainAspectsConfig
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: TrainAspectsConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    return Output(location_of(config, "aspects"), "aspects", *aspects_identity(config))


def run(config: TrainAspectsConfig) -> Manifest:
    """Train in this process, unless it is done."""
    from xrec.aspects.train import train_aspects

    return output(config).done() or train_aspects(config)
