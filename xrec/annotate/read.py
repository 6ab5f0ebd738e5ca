"""Reads annotations: a version of a stage's table, and all of them as the source of a dataset.

A source has texts, interactions with their splits, and aspects.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import LOW_RATED, Stage
from xrec.annotate.formats import KIND, MERGED
from xrec.annotate.stages import ItemTexts
from xrec.annotate.store import ReviewStore
from xrec.annotate.vocabulary import Vocabulary, names_are_english
from xrec.bulk import Published, published
from xrec.config.shared import StorageConfig
from xrec.data.source import SourceData
from xrec.storage import Location, Manifest, open_location, read_content, read_manifest

Versions = Mapping[Stage, int]
"""The version of each stage's table."""

_QUERIES = {
    "interactions": """
        SELECT user_id, item_id, split, 'reviews' AS file,
            row_number() OVER (ORDER BY user_id, item_id) AS line
        FROM reviews WHERE split <> 'low_rated' ORDER BY line""",
    "explanations": """
        SELECT user_id, item_id, explanation, pairs.split, 'reviews' AS file,
            row_number() OVER (ORDER BY user_id, item_id) AS line, rating::VARCHAR AS rating
        FROM pairs LEFT JOIN reviews USING (user_id, item_id)
        WHERE explanation <> '' ORDER BY line""",
    "users": """
        SELECT user_id, coalesce(profile, '') AS profile
        FROM (SELECT DISTINCT user_id FROM reviews WHERE split <> 'low_rated')
        LEFT JOIN users USING (user_id) ORDER BY user_id""",
    "items": """
        SELECT item_id, coalesce(nullif(items.title, ''), known.title, '') AS title,
            coalesce(profile, '') AS profile
        FROM (SELECT item_id FROM reviews WHERE split <> 'low_rated'
            UNION SELECT item_id FROM known)
        LEFT JOIN items USING (item_id) LEFT JOIN known USING (item_id) ORDER BY item_id""",
}
_COLUMNS: Mapping[Stage, tuple[str, ...]] = {
    "items": ("item_id", "title", "profile"),
    "users": ("user_id", "profile"),
    "pairs": ("user_id", "item_id", "explanation", "split"),
}


def annotations_manifest(uri: str, storage: StorageConfig) -> Manifest:
    """The manifest of finished annotations; raises ArtifactNotFoundError."""
    return read_manifest(open_location(uri, storage), KIND)


def read_annotations(uri: str, storage: StorageConfig) -> SourceData:
    """All users, items and pairs of the kept reviews, with the texts that they have.

    What has no profile or title has an empty one; a rating is a string. Raises
    ArtifactNotFoundError if the annotations are not finished, TableError if a table's version is
    not there any more.
    """
    output = open_location(uri, storage)
    manifest = read_manifest(output, KIND)
    versions: Versions = manifest.metrics["tables"]
    store = ReviewStore(output, manifest.metrics["num_files"])
    columns = ["user_id", "item_id", "split", "rating"]
    with duckdb.connect() as database:
        for stage, names in _COLUMNS.items():
            database.register(stage, read_stage(output, stage, versions[stage], names, storage))
        reviews = [rows.select(columns) for rows in store.reviews("all_by_user")]
        database.register("reviews", pa.concat_tables(reviews))
        database.register("known", store.items)
        tables = {name: database.sql(query).to_arrow_table() for name, query in _QUERIES.items()}
    aspects = low_rated = _aspects(output, manifest, storage)
    if aspects is not None:
        is_low_rated = pc.equal(aspects["split"], LOW_RATED)
        low_rated = aspects.filter(is_low_rated)
        aspects = aspects.filter(pc.invert(is_low_rated))
    return SourceData(
        **tables,
        findings=(),
        num_rows={"reviews": tables["interactions"].num_rows},
        aspects=aspects,
        low_rated_aspects=low_rated,
    )


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
    canonical = _vocabulary(output, manifest).canonical
    aspects = pa.array(map(canonical, named["aspect"].to_pylist()), pa.string())
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
        counts.update(distinct["aspect"].to_pylist())
    return counts
