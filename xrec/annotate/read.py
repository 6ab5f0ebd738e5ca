"""Reads annotations: a version of a stage's table, and all of them as the source of a dataset.

A source has texts, interactions with their splits, and aspects.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.formats import MERGED, Stage
from xrec.annotate.identity import KIND
from xrec.annotate.rows import LOW_RATED
from xrec.annotate.stages import ItemTexts
from xrec.annotate.store import ReviewStore
from xrec.annotate.vocabulary import Vocabulary, names_are_english
from xrec.bulk import Published, published
from xrec.config.shared import StorageConfig
from xrec.data.source import SourceData
from xrec.storage import Location, Manifest, open_location, read_content, read_manifest

_FILE = "reviews"


def annotations_manifest(uri: str, storage: StorageConfig) -> Manifest:
    """The manifest of finished annotations; raises ArtifactNotFoundError."""
    return read_manifest(open_location(uri, storage), KIND)


def read_annotations(uri: str, storage: StorageConfig) -> SourceData:
    """All users, items and pairs of the kept reviews, with the texts that they have.

    What has no profile or title has an empty one. Raises
    ArtifactNotFoundError if the annotations are not finished, TableError if a table's version is
    not there any more.
    """
    output = open_location(uri, storage)
    manifest = read_manifest(output, KIND)
    versions: dict[Stage, int] = manifest.metrics["tables"]
    store = ReviewStore(output, manifest.metrics["num_files"])
    ids = pa.concat_tables(list(store.ids("all_by_user")))
    interactions = _numbered(ids.filter(pc.not_equal(ids["split"], LOW_RATED)))
    aspects = low_rated = _aspects(output, manifest, storage)
    if aspects is not None:
        is_low_rated = pc.equal(aspects["split"], LOW_RATED)
        low_rated = aspects.filter(is_low_rated)
        aspects = aspects.filter(pc.invert(is_low_rated))
    columns = ("user_id", "item_id", "explanation", "split")
    pairs = read_stage(output, "pairs", versions["pairs"], columns, storage)
    explained = pairs.filter(pc.not_equal(pairs["explanation"], ""))
    return SourceData(
        users=_users(output, versions, interactions, storage),
        items=_items(output, versions, interactions, store.items, storage),
        interactions=interactions,
        explanations=_numbered(_with_ratings(explained, store)),
        findings=(),
        num_rows={_FILE: interactions.num_rows},
        aspects=aspects,
        low_rated_aspects=low_rated,
    )


def _numbered(pairs: pa.Table) -> pa.Table:
    pairs = pairs.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    lines = pa.array(np.arange(1, pairs.num_rows + 1))
    return pairs.append_column("file", pa.repeat(_FILE, pairs.num_rows)).append_column(
        "line", lines
    )


def _with_ratings(pairs: pa.Table, store: ReviewStore) -> pa.Table:
    """The pairs with the ratings of their reviews as strings, null where the source has none."""
    columns = ["user_id", "item_id", "rating"]
    rated = pa.concat_tables([rows.select(columns) for rows in store.reviews("all_by_user")])
    joined = pairs.join(rated, columns[:2], join_type="left outer")
    place = joined.schema.get_field_index("rating")
    return joined.set_column(place, "rating", joined["rating"].cast(pa.string()))


def _ids(column: pa.ChunkedArray, *others: pa.ChunkedArray) -> pa.Array:
    """Each id once, sorted."""
    chunks = [chunk for each in (column, *others) for chunk in each.chunks]
    ids = pa.chunked_array(chunks, pa.string()).unique()
    return ids.take(pc.sort_indices(ids))


def _joined(ids: pa.Array, key: str, texts: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    """A row for each id with its columns of `texts`, empty where it has none there."""
    places = pc.index_in(ids, value_set=texts[key].combine_chunks())
    found = {name: pc.fill_null(texts[name].take(places), "") for name in columns}
    return pa.table({key: ids, **found})


def _users(
    output: Location, versions: Mapping[Stage, int], pairs: pa.Table, storage: StorageConfig
) -> pa.Table:
    texts = read_stage(output, "users", versions["users"], ("user_id", "profile"), storage)
    return _joined(_ids(pairs["user_id"]), "user_id", texts, ("profile",))


def _items(
    output: Location,
    versions: Mapping[Stage, int],
    pairs: pa.Table,
    known: pa.Table,
    storage: StorageConfig,
) -> pa.Table:
    columns = ("item_id", "title", "profile")
    texts = read_stage(output, "items", versions["items"], columns, storage)
    ids = _ids(pairs["item_id"], known["item_id"])
    items = _joined(ids, "item_id", texts, ("title", "profile"))
    own = _joined(ids, "item_id", known, ("title",))["title"]
    titles = pc.if_else(pc.equal(items["title"], ""), own, items["title"])
    return items.set_column(1, "title", titles)


def _aspects(output: Location, manifest: Manifest, storage: StorageConfig) -> pa.Table | None:
    """The aspects of each pair, each once, that are in the vocabulary; None if there are none.

    Those of low-rated reviews are among them.

    user_id, item_id, split, aspect, opinion, sentiment. A name that only held-out reviews have is
    renamed like the others, and kept if that is an aspect of the vocabulary: nothing is learned
    from it.
    """
    columns = ("user_id", "item_id", "split", "aspects")
    version = manifest.metrics["tables"]["pairs"]
    batches = stage_table(output, "pairs", version, storage).batches(columns)
    named = pa.concat_tables([named_aspects(batch) for batch in batches])
    if not pc.any(pc.equal(named["split"], "train")).as_py():
        return None
    vocabulary = _vocabulary(output, manifest)
    names = named["aspect"].to_pylist()
    aspects = pa.array([vocabulary.canonical(name) for name in names], pa.string())
    named = named.set_column(named.schema.get_field_index("aspect"), "aspect", aspects)
    named = _first_of_each(named.filter(pc.is_valid(named["aspect"])))
    frequent = _frequent(named, manifest.config["vocabulary"]["min_reviews"])
    return named.filter(pc.is_in(named["aspect"], value_set=frequent))


def _vocabulary(output: Location, manifest: Manifest) -> Vocabulary:
    return Vocabulary(
        manifest.config["vocabulary"]["synonyms"],
        json.loads(read_content(output, manifest, MERGED, remedy="run `xrec annotate` again")),
        is_english=names_are_english(manifest.config["annotator"]),
    )


def _first_of_each(named: pa.Table) -> pa.Table:
    """The first row of each aspect of a pair, in the order of the rows."""
    repeated = named.select(["user_id", "item_id", "aspect"]).to_pandas().duplicated().to_numpy()
    return named.filter(pa.array(~repeated))


def _frequent(named: pa.Table, min_reviews: int) -> pa.Array:
    """The aspects that at least so many training reviews have."""
    training = named.filter(pc.equal(named["split"], "train"))
    counts = pc.value_counts(training["aspect"].combine_chunks())
    is_frequent = pc.greater_equal(counts.field("counts"), min_reviews)
    return counts.field("values").filter(is_frequent)


Versions = Mapping[Stage, int]
"""The version of each stage's table."""


def stage_table(output: Location, stage: Stage, version: int, storage: StorageConfig) -> Published:
    """A version of a stage's table."""
    return published((output / stage).uri, version=version, storage=storage)


def read_stage(
    output: Location, stage: Stage, version: int, columns: Sequence[str], storage: StorageConfig
) -> pa.Table:
    """The rows that succeeded, in the table's order."""
    return pa.concat_tables(stage_table(output, stage, version, storage).batches(columns))


def read_item_texts(output: Location, version: int, storage: StorageConfig) -> ItemTexts:
    """The titles and profiles of the items."""
    names = ("item_id", "title", "profile", "title_is_made")
    return ItemTexts(read_stage(output, "items", version, names, storage))


def named_aspects(pairs: pa.Table) -> pa.Table:
    """One row for each aspect of each pair: user_id, item_id, split, aspect, opinion, sentiment.

    pairs: user_id, item_id, split and aspects, as the stage `pairs` wrote them.
    """
    lists = pairs["aspects"].combine_chunks()
    parents, structs = pc.list_parent_indices(lists), pc.list_flatten(lists)
    columns = {name: pairs[name].take(parents) for name in ("user_id", "item_id", "split")}
    fields = {name: structs.field(name) for name in ("aspect", "opinion", "sentiment")}
    return pa.table({**columns, **fields})


def count_explained(output: Location, version: int, storage: StorageConfig) -> int:
    """How many pairs have an explanation; the reviews of the others praise nothing."""
    batches = stage_table(output, "pairs", version, storage).batches(("explanation",))
    return sum(pc.sum(pc.not_equal(each["explanation"], "")).as_py() or 0 for each in batches)


def count_names(output: Location, version: int, storage: StorageConfig) -> Counter[str]:
    """In how many training reviews each name of an aspect is."""
    counts: Counter[str] = Counter()
    columns = ("user_id", "item_id", "split", "aspects")
    for pairs in stage_table(output, "pairs", version, storage).batches(columns):
        named = named_aspects(pairs.filter(pc.equal(pairs["split"], "train")))
        distinct = named.group_by(["user_id", "item_id", "aspect"]).aggregate([])
        for row in pc.value_counts(distinct["aspect"].combine_chunks()).to_pylist():
            counts[row["values"]] += row["counts"]
    return counts
