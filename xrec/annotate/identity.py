"""What annotations depend on; it is known before the work, and decides whose an output is."""

import json
from collections.abc import Mapping

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import KIND, Stage
from xrec.bulk import Identity
from xrec.config.annotate import REVIEW_COLUMNS, AnnotateConfig
from xrec.errors import StorageNotFoundError
from xrec.storage import Location, is_begun, run_fingerprint

RECORD = "run.json"
"""Whose run an output is, written before anything else: JSON with run, config and inputs."""

_SETTINGS = frozenset(
    {
        "min_rating",
        "low_rated",
        "rating_range",
        "core",
        "split",
        "max_rejected_share",
        "max_reviews_per_profile",
        "vocabulary",
    }
)


def identify_annotations(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    files: Mapping[str, str],
    stage: Stage | None = None,
) -> Identity:
    """The run that `config` asks for, or one stage of it.

    files: the hashes of the source's files, by table.
    """
    values = config.model_dump(mode="json", include={"source", *_SETTINGS})
    source = {key: value for key, value in values.pop("source").items() if key != "uri"}
    of_stage = {} if stage is None else {"stage": stage}
    return Identity(
        kind=KIND,
        config={**values, "source": source, "annotator": dict(spec.settings), **of_stage},
        inputs={**files, **spec.inputs},
    )


def begin(output: Location, identity: Identity) -> None:
    """Write whose run the output is, unless it is there.

    Raises ArtifactMismatchError, with the fields that differ, if it is another run's.
    """
    if is_begun(output, RECORD, KIND, identity.config, identity.inputs):
        return
    record = {
        "run": run_fingerprint(KIND, identity.config, identity.inputs),
        "config": identity.config,
        "inputs": identity.inputs,
    }
    if not (output / RECORD).create_bytes(json.dumps(record, indent=2).encode()):
        is_begun(output, RECORD, KIND, identity.config, identity.inputs)  # another was first


def begun_files(output: Location) -> dict[str, str]:
    """The hashes of the source's files, by table, of the run that `begin` noted; none if none."""
    try:
        inputs: dict[str, str] = json.loads((output / RECORD).read_text())["inputs"]
    except StorageNotFoundError:
        return {}
    return {table: inputs[table] for table in REVIEW_COLUMNS if table in inputs}
