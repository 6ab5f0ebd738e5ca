"""Job `train-aspects`: the dataset in, a score of the aspects of items for users out."""

from xrec.aspects.artifact import aspects_identity
from xrec.config import TrainAspectsConfig
from xrec.jobs.output import Output
from xrec.storage import Manifest, check_artifacts, location_of


def output(config: TrainAspectsConfig, *, exact: bool = True) -> Output:
    settings, inputs = aspects_identity(config)
    return Output(location_of(config, "aspects"), "aspects", settings, inputs)


def run(config: TrainAspectsConfig) -> Manifest:
    """Train in this process, unless it is done; returns the manifest."""
    from xrec.aspects.train import train_aspects

    check_artifacts(config, "dataset", "aspects")
    return output(config).done() or train_aspects(config)
