"""The dataset: sources in, one artifact out, and how the later stages read it."""

from xrec.data.dataset import Dataset, read_dataset, write_dataset
from xrec.data.prepare import prepare_dataset

__all__ = ["Dataset", "prepare_dataset", "read_dataset", "write_dataset"]
