"""The recipe: a dataset with aspects in, the aspects artifact out, in one process.

Held-out reviews of the validation train the score's numbers; those of the test are scored once, for
the manifest.
"""

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.aspects.artifact import choices_table, write_aspects
from xrec.aspects.choice import AspectChooser
from xrec.aspects.fit import Fitted, evaluate, fit
from xrec.aspects.mentions import Mentions, dataset_mentions
from xrec.aspects.neighbours import item_vectors, nearest_items
from xrec.aspects.scorer import AspectScorer
from xrec.config.aspects import TrainAspectsConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import DataError
from xrec.storage import Manifest, location_of, manifest_of

logger = logging.getLogger("xrec")


def aspects_identity(config: TrainAspectsConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the content depends on, and the dataset's fingerprint.

    Raises ArtifactNotFoundError without a dataset.
    """
    settings = config.model_dump(
        mode="json", exclude={"workspace", "storage", "dataset", "aspects"}
    )
    return settings, {"dataset": manifest_of(config, "dataset").fingerprint}


def train_aspects(config: TrainAspectsConfig) -> Manifest:
    """Train the score, choose for the explained pairs, write the artifact, return its manifest.

    Raises ArtifactNotFoundError without a dataset, DataError if it has no aspects, or none in its
    validation pairs, or fewer reviews an item than `config.min_item_reviews`.
    """
    settings, inputs = aspects_identity(config)
    dataset = read_dataset(location_of(config, "dataset"))
    if dataset.aspects_from == "profiles" and config.min_item_reviews > 1:
        raise DataError(
            f"min_item_reviews is {config.min_item_reviews}, and the dataset's aspects are from "
            "profiles, of which an item has one; set it to 1"
        )
    train, validation, test = (
        dataset_mentions(dataset, split, config.sentiment)
        for split in ("train", "validation", "test")
    )
    found = _fit(config, train, validation)
    metrics = {"validation": _shown(found), "test": _of_test(found.scorer, test, config)}
    for split, figures in metrics.items():
        logger.info("%s: %s", split, figures or "no review mentions an aspect")
    return write_aspects(
        location_of(config, "aspects"),
        found.scorer,
        _choices(dataset, found.scorer, config),
        config=settings,
        inputs=inputs,
        metrics=metrics,
    )


def _fit(config: TrainAspectsConfig, train: Mentions, validation: Mentions) -> Fitted:
    if not validation.aspects.nnz:
        raise DataError(
            f"none of the {len(validation.users)} validation pairs has an aspect, and the score is "
            "trained on them; annotate more reviews, or raise the validation's share"
        )
    vectors = item_vectors(
        train,
        embedding_dim=config.similar_items.embedding_dim,
        user_weight=float(config.own_words),
        seed=config.seed,
    )
    return fit(
        train,
        validation,
        nearest_items(vectors, config.similar_items.num_neighbours),
        personal_weight=config.personal_weight,
        own_words=config.own_words,
        seed=config.seed,
    )


def _choices(dataset: Dataset, scorer: AspectScorer, config: TrainAspectsConfig) -> pa.Table:
    pairs = dataset.explanations
    users, items = (
        pairs[name].to_numpy().astype(np.int64) for name in ("user_index", "item_index")
    )
    chosen = AspectChooser(scorer, config.min_item_reviews, config.diversity).choose(
        users, items, config.num_chosen, leave_out_own=True
    )
    return choices_table(users, items, pairs["split"].combine_chunks(), chosen)


def _of_test(scorer: AspectScorer, test: Mentions, config: TrainAspectsConfig) -> dict[str, float]:
    return _shown(evaluate(scorer, test, seed=config.seed)) if test.aspects.nnz else {}


def _shown(found: Fitted) -> dict[str, float]:
    return {
        "ndcg@10": round(found.ndcg, 4),
        "ndcg@10_others": round(found.ndcg_others, 4),
        "ndcg@10_item": round(found.ndcg_item, 4),
    }
