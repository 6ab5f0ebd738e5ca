"""The dataset: makes it from files, reads it, and answers what the later stages ask of it.

block, files               the rows of a file, by column
csv_rows                   the same for CSV, by Arrow or record by record
rows, findings             the same under our column names, and the rows that are left out
sources, release, staging  which files a source has, or the public release; its rows in DuckDB
assemble, prepare          the dataset's tables made from them; all of this, for a job
dataset, ids, splits       the artifact, the index of its IDs, splits and samples by hash
aspects, evidence          what the texts say of items and users, and what backs a reason
language                   what can be said of a text without a language model: its own facade
"""

from xrec.data.aspects import (
    LOW_RATED,
    NamedAspects,
    aspect_counts,
    check_aspects,
    visited_aspects,
)
from xrec.data.assemble import assemble, check_not_empty
from xrec.data.block import MISSING
from xrec.data.dataset import (
    ASPECTS_FROM,
    EXTENDS,
    SECOND_BITS,
    AspectsFrom,
    Dataset,
    HeldOutPair,
    check_has_explanations,
    edges_of,
    held_out_pairs,
    index_keys,
    open_dataset,
    pair_keys,
    read_dataset,
    taken,
    write_dataset,
)
from xrec.data.evidence import (
    EVIDENCE_KINDS,
    AspectEvidence,
    Menus,
    NamedEvidence,
    Opinions,
    PeopleEvidence,
)
from xrec.data.files import read_blocks
from xrec.data.findings import (
    Finding,
    Rejected,
    check_rejected_share,
    count_findings,
    count_reasons,
    rejected_table,
)
from xrec.data.prepare import dataset_settings, prepare_dataset
from xrec.data.release import find_release_files, is_release, read_release
from xrec.data.rows import (
    SPLITS,
    FileRows,
    Parser,
    joined_rows,
    parse_description,
    parse_id,
    parse_text,
    reject_duplicates,
    stream_rows,
)
from xrec.data.sources import (
    Source,
    find_files,
    find_table_files,
    read_tables,
)
from xrec.data.splits import drawn, drawn_explanations, drawn_pairs, pair_fraction, split_pairs
from xrec.data.staging import Staging

__all__ = [
    "ASPECTS_FROM",
    "EVIDENCE_KINDS",
    "EXTENDS",
    "LOW_RATED",
    "MISSING",
    "SECOND_BITS",
    "SPLITS",
    "AspectEvidence",
    "AspectsFrom",
    "Dataset",
    "FileRows",
    "Finding",
    "HeldOutPair",
    "Menus",
    "NamedAspects",
    "NamedEvidence",
    "Opinions",
    "Parser",
    "PeopleEvidence",
    "Rejected",
    "Source",
    "Staging",
    "aspect_counts",
    "assemble",
    "check_aspects",
    "check_has_explanations",
    "check_not_empty",
    "check_rejected_share",
    "count_findings",
    "count_reasons",
    "dataset_settings",
    "drawn",
    "drawn_explanations",
    "drawn_pairs",
    "edges_of",
    "find_files",
    "find_release_files",
    "find_table_files",
    "held_out_pairs",
    "index_keys",
    "is_release",
    "joined_rows",
    "open_dataset",
    "pair_fraction",
    "pair_keys",
    "parse_description",
    "parse_id",
    "parse_text",
    "prepare_dataset",
    "read_blocks",
    "read_dataset",
    "read_release",
    "read_tables",
    "reject_duplicates",
    "rejected_table",
    "split_pairs",
    "stream_rows",
    "taken",
    "visited_aspects",
    "write_dataset",
]
