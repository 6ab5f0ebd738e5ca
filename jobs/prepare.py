"""Job `prepare`: raw files (or the sample's generator) in, dataset artifact out."""

from xrec.config.data import PrepareConfig
from xrec.data import prepare_dataset
from xrec.storage import Manifest


def run(config: PrepareConfig) -> Manifest:
    """Make the dataset; returns its manifest. For the errors see `prepare_dataset`."""
    return prepare_dataset(config)


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("prepare")
