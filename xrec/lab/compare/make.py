"""An entry's texts: trained and written as far as that is not done, by the kind of contestant."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from xrec.config.compare import CompareConfig
from xrec.config.contestants import ADAPTERS, BASELINES
from xrec.data.dataset import Dataset
from xrec.data.splits import drawn_explanations
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings, check_graph_of_dataset, read_graph
from xrec.lab.compare.adapters import adapter_texts
from xrec.lab.compare.baselines import baseline_texts
from xrec.lab.compare.copies import nearest_texts, profile_texts
from xrec.lab.compare.elsewhere import elsewhere_fingerprint, read_elsewhere
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.pairs import ComparedPairs
from xrec.lab.compare.text_only import zero_shot_texts
from xrec.lab.compare.texts import Costs, EntryTexts, keep_texts, kept_texts
from xrec.lab.measures.contestant_texts import PairIds
from xrec.storage import location_of, manifest_of


@dataclass(frozen=True)
class Inputs:
    """What all entries are made from."""

    config: CompareConfig
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


def make(given: Inputs, entry: Entry) -> EntryTexts:
    """The entry's texts and costs; raises what the trainings and bulk runs raise."""
    config = given.config
    if entry.contestant in ADAPTERS:
        return adapter_texts(config, entry, given.pairs)
    if entry.contestant in BASELINES:
        return baseline_texts(config, entry, given.pairs)
    if entry.contestant == "zero_shot":
        return zero_shot_texts(config, entry, given.pairs)
    if entry.contestant == "profile":
        return _copied(given, entry, profile_texts(given.dataset, given.pairs.pairs), {})
    if entry.contestant == "nearest":
        known = drawn_explanations(
            given.dataset, given.dataset.explained_pairs("train"), config.max_training_pairs
        )
        texts = nearest_texts(known, given.graph, given.pairs.pairs)
        inputs = {"graph": given.graph.manifest.fingerprint}
        return _copied(given, entry, texts, inputs, max_pairs=config.max_training_pairs)
    return elsewhere_texts(given, entry)


def _copied(
    given: Inputs,
    entry: Entry,
    texts: Mapping[PairIds, str | None],
    inputs: Mapping[str, str],
    **settings: int | None,
) -> EntryTexts:
    """Keep texts for which nothing is trained."""
    location, about = entry.location / "texts", {"contestant": entry.contestant}
    manifest = keep_texts(
        location,
        texts,
        config={**about, "pairs": given.pairs.fingerprint, **settings},
        inputs={"dataset": given.dataset.manifest.fingerprint, **inputs},
    )
    return replace(kept_texts(location, manifest), costs=Costs(num_trained_parameters=0))


def elsewhere_texts(given: Inputs, entry: Entry) -> EntryTexts:
    """Texts from elsewhere; raises DataError if none is of a pair that is compared."""
    name, config = entry.contestant, given.config
    source = config.texts[name]
    texts = read_elsewhere(name, source, config.storage)
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
            **source.model_dump(mode="json", exclude={"uri"}),
            "pairs": given.pairs.fingerprint,
        },
        inputs={
            "dataset": given.dataset.manifest.fingerprint,
            "texts": elsewhere_fingerprint(source, config.storage),
        },
    )
    return kept_texts(location, manifest)
