"""Reads annotations: a version of a stage's table, or all tables as the source of a dataset.

Such a source contains texts, interactions with their splits, and aspects.
"""

import functools
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import Stage
from xrec.annotate.formats import KIND
from xrec.annotate.inputs import ItemTexts
from xrec.annotate.store import ReviewStore
from xrec.annotate.vocabulary import canonical_names
from xrec.bulk import Published, published
from xrec.config import StorageConfig
from xrec.data.language import language_code
from xrec.storage import Location, Manifest, open_location, read_manifest

Versions = Mapping[Stage, int]
"""The version of each stage's table."""

_QUERIES = {
    "interactions": """
        SELECT user_id, item_id, split FROM reviews WHERE split <> 'low_rated'""",
    "explanations": """
        SELECT user_id, item_id, explanation, split FROM pairs WHERE explanation <> ''""",
    "users": """
        SELECT user_id, coalesce(profile, '') AS profile
        FROM (SELECT DISTINCT user_id FROM reviews) LEFT JOIN users USING (user_id)""",
    "items": """
        SELECT item_id, coalesce(nullif(items.title, ''), known.title, '') AS title,
            coalesce(profile, '') AS profile
        FROM (SELECT item_id FROM reviews WHERE split <> 'low_rated'
            UNION SELECT item_id FROM known)
        LEFT JOIN items USING (item_id) LEFT JOIN known USING (item_id)""",
    "dislikes": """
        SELECT user_id, item_id FROM reviews WHERE split = 'low_rated'""",
}
_LEFT_OUT = """
    SELECT 1 FROM (FROM users UNION ALL BY NAME FROM items) WHERE len(left_out) > 0 LIMIT 1"""
"""Returns a row if any profile was also written without some of its reviews."""
_TRAINING_PROFILES = """
    SELECT user_id, item_id, coalesce(of_user.profile, users.profile, '') AS user_profile,
        coalesce(of_item.profile, items.profile, '') AS item_profile
    FROM pairs LEFT JOIN users USING (user_id) LEFT JOIN items USING (item_id)
    LEFT JOIN (SELECT user_id, unnest(left_out, recursive := true) FROM users)
        AS of_user(user_id, item_id, profile) USING (user_id, item_id)
    LEFT JOIN (SELECT item_id, unnest(left_out, recursive := true) FROM items)
        AS of_item(item_id, user_id, profile) USING (user_id, item_id)
    WHERE explanation <> '' AND split = 'train'"""
_NAMED = """
    SELECT user_id, item_id, split, generate_subscripts(aspects, 1) AS place,
        unnest(aspects, recursive := true)
    FROM pairs"""
"""A row for each aspect of each pair, in the annotator's words."""
_IS_NAMED = f"SELECT 1 FROM ({_NAMED}) WHERE split = 'train' LIMIT 1"
_ASPECTS = f"""
    WITH renamed AS (
        SELECT user_id, item_id, split, canonical AS aspect, opinion, sentiment, place
        FROM ({_NAMED}) JOIN names USING (aspect) WHERE canonical IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY user_id, item_id, canonical ORDER BY place) = 1
    )
    SELECT * EXCLUDE (place) FROM renamed WHERE aspect IN (
        SELECT aspect FROM renamed WHERE split = 'train' GROUP BY aspect
        HAVING count(*) >= $least OR aspect IN $added
    ) ORDER BY user_id, item_id, place"""
_COLUMNS: Mapping[Stage, tuple[str, ...]] = {
    "items": ("item_id", "title", "profile", "left_out"),
    "users": ("user_id", "profile", "left_out"),
    "pairs": ("user_id", "item_id", "explanation", "split", "aspects"),
}


def read_annotations(uri: str, storage: StorageConfig) -> dict[str, pa.Table]:
    """Return the raw tables of a dataset: users, items and pairs of the kept reviews, with texts.

    Missing profiles and titles are empty. Raises ArtifactNotFoundError if the annotations are not
    finished, TableError if a table's version no longer exists.
    """
    output = open_location(uri, storage)
    manifest = read_manifest(output, KIND)
    versions: Versions = manifest.metrics["tables"]
    store = ReviewStore(output, manifest.metrics["num_files"])
    columns = ["user_id", "item_id", "split"]
    with duckdb.connect() as database:
        for stage, names in _COLUMNS.items():
            database.register(stage, read_stage(output, stage, versions[stage], names, storage))
        reviews = [rows.select(columns) for rows in store.reviews("all_by_user")]
        database.register("reviews", pa.concat_tables(reviews))
        database.register("known", store.items)
        tables = {name: database.sql(query).to_arrow_table() for name, query in _QUERIES.items()}
        if database.sql(_LEFT_OUT).fetchone() is not None:
            tables["training_profiles"] = database.sql(_TRAINING_PROFILES).to_arrow_table()
        aspects = _aspects(database, manifest)
    return tables if aspects is None else {**tables, "aspects": aspects}


def _aspects(database: duckdb.DuckDBPyConnection, manifest: Manifest) -> pa.Table | None:
    """Return each pair's aspects in the vocabulary, low-rated pairs included; None if none exist.

    Columns: user_id, item_id, split, aspect, opinion, sentiment. A name that only held-out reviews
    use is mapped like any other, but adds nothing to the vocabulary.
    """
    if database.sql(_IS_NAMED).fetchone() is None:
        return None
    settings = manifest.config["vocabulary"]
    is_english = language_code(manifest.config["annotator"].get("language", "English")) == "en"
    canonical = functools.partial(canonical_names, config=settings, is_english=is_english)
    names = database.sql(f"SELECT DISTINCT aspect FROM ({_NAMED})").to_arrow_table()["aspect"]
    mapped = pa.array(canonical(names.to_pylist()), pa.string())
    database.register("names", pa.table({"aspect": names, "canonical": mapped}))
    added = list(filter(None, canonical(settings["add"])))
    params = {"least": settings["min_reviews"], "added": added}
    return database.sql(_ASPECTS, params=params).to_arrow_table()


def stage_table(output: Location, stage: Stage, version: int, storage: StorageConfig) -> Published:
    """Return a version of a stage's table."""
    return published((output / stage).uri, version=version, storage=storage)


def read_stage(
    output: Location, stage: Stage, version: int, columns: Sequence[str], storage: StorageConfig
) -> pa.Table:
    """Return the rows that succeeded, in the table's order."""
    return pa.concat_tables(stage_table(output, stage, version, storage).batches(columns))


def read_item_texts(output: Location, version: int, storage: StorageConfig) -> ItemTexts:
    """Return the titles and profiles of the items."""
    names = ("item_id", "title", "profile", "title_is_made")
    return ItemTexts(read_stage(output, "items", version, names, storage))


def count_explained(output: Location, version: int, storage: StorageConfig) -> int:
    """Return how many pairs have an explanation; the other reviews give no reason for one."""
    batches = stage_table(output, "pairs", version, storage).batches(("explanation",))
    return sum(pc.sum(pc.not_equal(each["explanation"], "")).as_py() or 0 for each in batches)
