"""The recipe: a dataset with aspects in, the aspects artifact out, in one process.

Held-out reviews of the validation train the score's numbers; those of the test are scored once, for
the manifest.
"""

import logging

from xrec.aspects.artifact import aspects_identity, write_aspects
from xrec.aspects.fit import Fitted, evaluate, fit
from xrec.aspects.mentions import Mentions, dataset_mentions, dataset_praise
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer
from xrec.config.graph import TrainAspectsConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import DataError
from xrec.storage import Manifest, location_of

logger = logging.getLogger("xrec")

# Of the vectors by whose angle items are near, and how many items count as near.
_EMBEDDING_DIM, _NUM_NEIGHBOURS = 64, 100
_SEED = 0  # of the vectors and of the other users


def train_aspects(config: TrainAspectsConfig) -> Manifest:
    """Train the score, write the artifact, return its manifest.

    Without aspects in validation pairs the weights stay the default ones, and a warning says so.
    Raises ArtifactNotFoundError without a dataset, DataError if its training pairs have no aspects
    or praise none, or fewer reviews an item than `config.min_item_reviews`.
    """
    settings, inputs = aspects_identity(config)
    dataset = read_dataset(location_of(config, "dataset"))
    if dataset.aspects_from == "profiles" and config.min_item_reviews > 1:
        raise DataError(
            f"min_item_reviews is {config.min_item_reviews}, and the dataset's aspects are from "
            "profiles, of which an item has one; set it to 1"
        )
    train, validation, test = (
        dataset_mentions(dataset, split) for split in ("train", "validation", "test")
    )
    scorer, of_validation = _fit(train, validation)
    _check_praise(dataset)
    of_test = _shown(evaluate(scorer, test, seed=_SEED)) if test.aspects.nnz else {}
    metrics = {"validation": of_validation, "test": of_test}
    for split, figures in metrics.items():
        logger.info("%s: %s", split, figures or "no review mentions an aspect")
    location = location_of(config, "aspects")
    return write_aspects(location, scorer, config=settings, inputs=inputs, metrics=metrics)


def _fit(train: Mentions, validation: Mentions) -> tuple[AspectScorer, dict[str, float]]:
    """The trained score, and its figures on the validation."""
    if not train.aspects.nnz:
        raise DataError(
            f"none of the {len(train.users)} training pairs has an aspect; annotate more reviews"
        )
    vectors = item_vectors(train, embedding_dim=_EMBEDDING_DIM, seed=_SEED)
    neighbours = nearest_items(vectors, _NUM_NEIGHBOURS)
    if not validation.aspects.nnz:
        logger.warning(
            "none of the %d validation pairs has an aspect: the score is not trained and keeps its "
            "default weights",
            len(validation.users),
        )
        return AspectScorer(train, neighbours), {}
    found = fit(train, validation, neighbours, seed=_SEED)
    return found.scorer, _shown(found)


def _check_praise(dataset: Dataset) -> None:
    """Raise DataError if no aspect could ever be chosen."""
    praise = dataset_praise(dataset)
    if praise is not None and not (praise.margins > 0).nnz:
        raise DataError(
            "no aspect of an item is praised by more training reviews than blame it, so none "
            "can be chosen; annotate more reviews"
        )


def _shown(found: Fitted) -> dict[str, float]:
    return {
        "ndcg@10": round(found.ndcg, 4),
        "ndcg@10_others": round(found.ndcg_others, 4),
        "ndcg@10_item": round(found.ndcg_item, 4),
    }
