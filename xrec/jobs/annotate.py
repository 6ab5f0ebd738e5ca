"""Write texts and aspects from reviews.

Writes what an item is like, what a user likes, and why the user would enjoy the item. Run the same
command again to continue after an interruption.

In:   source: a table of reviews (user_id, item_id, review), optionally one of items
Out:  <workspace>/annotations; read it with prepare and 'source: {kind: annotations}'

Examples:
  xrec annotate configs/instruments.yaml
  xrec annotate configs/instruments.yaml limit=500
"""

import os

from xrec.annotate import (
    KIND,
    annotator_spec,
    begun_files,
    file_hashes,
    find_review_files,
    identify_annotations,
    keep_source,
    read_outlook,
    run_annotate,
)
from xrec.config import AnnotateConfig
from xrec.jobs.output import Output
from xrec.storage import RUN_RECORD, Manifest, location_of


def output(config: AnnotateConfig, *, exact: bool = True) -> Output:
    """Return the job's output; without `exact`, without reading the source's files."""
    location, spec = location_of(config, KIND), annotator_spec(config)
    files = file_hashes(find_review_files(config)) if exact else begun_files(location)
    identity = identify_annotations(config, spec, files)
    unknown = [name for name, fingerprint in identity.inputs.items() if not fingerprint]
    unchecked = () if exact else (*files, *unknown)
    return Output(
        location, KIND, identity.config, identity.inputs, unchecked, records=(RUN_RECORD,)
    )


def run(config: AnnotateConfig) -> Manifest | None:
    """Store the reviews and write missing texts on Ray; return None if the limit ended the run."""
    from xrec.cluster import demand_of_actors, ready_cluster

    if config.retry_failed is None and (done := output(config).done()) is not None:
        return done
    spec = annotator_spec(config, os.environ)
    record = keep_source(config, spec)
    with ready_cluster(config, KIND, demand_of_actors(config.actors, spec.gpus_per_actor)):
        return run_annotate(config, spec, record)


def look_ahead(config: AnnotateConfig) -> list[str]:
    """Describe what `run` would do, without writing anything or calling a language model.

    Raises DataError if the reviews cannot be read, ConfigError for invalid prompts.
    """
    return annotator_spec(config).describe(read_outlook(config))
