"""The dataset artifact: making it from a source, and reading it in the later stages."""

from xrec.data.dataset import Dataset, check_has_explanations, read_dataset, write_dataset
from xrec.data.prepare import dataset_settings, prepare_dataset

__all__ = [
    "Dataset",
    "check_has_explanations",
    "dataset_settings",
    "prepare_dataset",
    "read_dataset",
    "write_dataset",
]
