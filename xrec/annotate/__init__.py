"""Turns reviews into the texts that everything else starts from.

An annotator writes what an item is like, what a user likes, and why the user would enjoy the item,
with the aspects that their review mentions. Held-out reviews are chosen before it writes anything.

    annotator         the protocol of an annotator: inputs, texts, and its spec
    source, cells     read the reviews of a source
    keep, store       choose which reviews are kept and held out, and store them
    formats           the tables of the stages
    inputs            the rows of a stage, and what their texts are written from
    drift             whether earlier profiles still fit the reviews
    task              what an actor does with the rows of a stage
    driver            runs the stages, each as a bulk run (xrec.bulk), and publishes the texts
    report            reports how good the texts are
    read, vocabulary  read published annotations, as the source of a dataset
    phrases, language_model
                      the two annotators
"""

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.cells import parse_number, parse_time
from xrec.annotate.driver import annotator_spec, run_annotate
from xrec.annotate.formats import KIND, begun_files, identify_annotations
from xrec.annotate.inputs import read_outlook
from xrec.annotate.keep import keep_reviews
from xrec.annotate.phrases import Reader, find_aspects
from xrec.annotate.read import read_annotations
from xrec.annotate.source import file_hashes, find_review_files, read_reviews
from xrec.annotate.store import keep_source

__all__ = [
    "KIND",
    "AnnotatorSpec",
    "Reader",
    "annotator_spec",
    "begun_files",
    "file_hashes",
    "find_aspects",
    "find_review_files",
    "identify_annotations",
    "keep_reviews",
    "keep_source",
    "parse_number",
    "parse_time",
    "read_annotations",
    "read_outlook",
    "read_reviews",
    "run_annotate",
]
