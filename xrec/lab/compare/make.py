"""An entry's texts: trained and written as far as that is not done, by the kind of contestant."""

from dataclasses import dataclass, replace
from functools import cached_property

from xrec.config.comparison import ComparisonConfig
from xrec.config.contestants import ADAPTERS, PEERS
from xrec.data.dataset import Dataset
from xrec.data.drawn import drawn_explanations
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.lab.compare.adapters import adapter_texts
from xrec.lab.compare.copies import nearest_texts, profile_texts
from xrec.lab.compare.elsewhere import elsewhere_fingerprint, read_elsewhere
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.lora import lora_texts
from xrec.lab.compare.made import Costs, Made, keep_texts, kept_texts
from xrec.lab.compare.pairs import ComparedPairs, PairIds
from xrec.lab.compare.peers import peer_texts
from xrec.lab.compare.text_only import zero_shot_texts
from xrec.lab.measures.contestant_texts import check_known
from xrec.storage import location_of, manifest_of

_NOTHING_IS_TRAINED = Costs(num_trained_parameters=0)


@dataclass(frozen=True)
class Given:
    """What all entries are made from."""

    config: ComparisonConfig
    dataset: Dataset
    pairs: ComparedPairs

    @cached_property
    def graph(self) -> GraphEmbeddings:
        """The graph's vectors; raises ArtifactMismatchError for another dataset's."""
        config = self.config
        manifest = manifest_of(config, "graph")
        uris = config.artifact("graph"), config.artifact("dataset")
        check_graph_of_dataset(manifest, self.dataset.manifest, *uris)
        return read_graph(location_of(config, "graph"))

    @cached_property
    def explained(self) -> set[PairIds]:
        """The ids of all pairs that have an explanation, in any split."""
        explanations = self.dataset.explanations
        users = self.dataset.users["user_id"].take(explanations["user_index"]).to_pylist()
        items = self.dataset.items["item_id"].take(explanations["item_index"]).to_pylist()
        return set(zip(users, items, strict=True))


def make(given: Given, entry: Entry) -> Made:
    """The entry's texts and costs; raises what the trainings and bulk runs raise."""
    config = given.config
    if entry.contestant in ADAPTERS:
        return adapter_texts(config, entry, given.pairs)
    if entry.contestant in PEERS:
        return peer_texts(config, entry, given.pairs)
    if entry.contestant == "zero_shot":
        return zero_shot_texts(config, entry, given.pairs)
    if entry.contestant == "lora":
        return lora_texts(config, entry, given.pairs)
    if entry.contestant == "profile":
        return _profile(given, entry)
    if entry.contestant == "nearest":
        return _nearest(given, entry)
    return elsewhere_texts(given, entry)


def _profile(given: Given, entry: Entry) -> Made:
    location = entry.location / "texts"
    manifest = keep_texts(
        location,
        profile_texts(given.dataset, given.pairs.pairs),
        config={"contestant": entry.contestant, "pairs": given.pairs.fingerprint},
        inputs={"dataset": given.dataset.manifest.fingerprint},
    )
    return replace(kept_texts(location, manifest), costs=_NOTHING_IS_TRAINED)


def _nearest(given: Given, entry: Entry) -> Made:
    location, max_pairs = entry.location / "texts", given.config.max_training_pairs
    known = drawn_explanations(given.dataset, given.dataset.explained_pairs("train"), max_pairs)
    manifest = keep_texts(
        location,
        nearest_texts(known, given.graph, given.pairs.pairs),
        config={
            "contestant": entry.contestant,
            "pairs": given.pairs.fingerprint,
            "max_pairs": max_pairs,
        },
        inputs={
            "dataset": given.dataset.manifest.fingerprint,
            "graph": given.graph.manifest.fingerprint,
        },
    )
    return replace(kept_texts(location, manifest), costs=_NOTHING_IS_TRAINED)


def elsewhere_texts(given: Given, entry: Entry) -> Made:
    """Texts from elsewhere; raises DataError if they are of pairs without an explanation.

    So it does if none of them is of a pair that is compared.
    """
    name, config = entry.contestant, given.config
    source = config.texts[name]
    texts = read_elsewhere(name, source, config.storage)
    check_known(name, texts, given.explained)
    ids = [(pair.user_id, pair.item_id) for pair in given.pairs.pairs]
    if not any(map(texts.get, ids)):
        raise DataError(
            f"contestant {name!r}: {source.uri} has {len(texts)} texts, of none of the {len(ids)} "
            f"pairs that are compared, such as user {ids[0][0]!r} and item {ids[0][1]!r}; give "
            f"texts of the split {config.split!r}, or choose the other one"
        )
    location = entry.location / "texts"
    manifest = keep_texts(
        location,
        {pair: texts.get(pair) for pair in ids},
        config={
            **source.model_dump(mode="json", exclude={"uri", "judge_scores", "is_trained"}),
            "pairs": given.pairs.fingerprint,
        },
        inputs={
            "dataset": given.dataset.manifest.fingerprint,
            "texts": elsewhere_fingerprint(source, config.storage),
        },
    )
    return kept_texts(location, manifest)
