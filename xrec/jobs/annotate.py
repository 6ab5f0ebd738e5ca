"""Job `annotate`: reviews in; profiles, explanations and aspects out."""

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
from xrec.config.annotate import AnnotateConfig
from xrec.jobs.output import Output
from xrec.storage import RUN_RECORD, Manifest, check_artifacts, location_of


def output(config: AnnotateConfig, *, exact: bool = True) -> Output:
    """The annotations that `config` asks for; see xrec.jobs.output.

    Reads the source's files. Without `exact` it reads none of them, which may be large or gone by
    now, and compares none.
    """
    location, spec = location_of(config, KIND), annotator_spec(config)
    files = file_hashes(find_review_files(config)) if exact else begun_files(location)
    identity = identify_annotations(config, spec, files)
    unknown = [name for name, fingerprint in identity.inputs.items() if not fingerprint]
    return Output(
        location,
        KIND,
        identity.config,
        identity.inputs,
        unchecked=() if exact else (*files, *unknown),
        records=(RUN_RECORD,),
    )


def run(config: AnnotateConfig) -> Manifest | None:
    """Keep and split the reviews, and write what is left of all texts on Ray.

    Returns the manifest, or None if the limit ended the run before it was finished.
    """
    from xrec.cluster.connect import ensure_ray
    from xrec.cluster.preflight import check_cluster, demand_of_actors

    check_artifacts(config, KIND)
    if config.retry_failed is None and (done := output(config).done()) is not None:
        return done
    spec = annotator_spec(config, os.environ)
    record = keep_source(config, spec)
    with ensure_ray(config.ray):
        demand = demand_of_actors(config.actors, spec.gpus_per_actor)
        check_cluster(demand, config.artifact(KIND), config.storage)
        return run_annotate(config, spec, record)


def look_ahead(config: AnnotateConfig) -> list[str]:
    """What `run` would do, for a reader.

    Nothing is written, and no language model is asked. Raises DataError if the reviews cannot be
    read, ConfigError for prompts that cannot be used.
    """
    return annotator_spec(config).describe(read_outlook(config))
