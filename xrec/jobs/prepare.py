"""Turn raw files into a dataset.

Held-out pairs are never training edges. rejected.parquet lists the rows that cannot be used; if
their share is above max_rejected_share, the job fails.

In:   source: annotations, your own tables, the public XRec release, or the sample
Out:  <workspace>/dataset: users, items, interactions and explanations

Examples:
  xrec prepare configs/yelp.yaml
  xrec prepare configs/yelp.yaml workspace=s3://my-bucket/yelp splits.test=0.1
"""

from dataclasses import replace
from functools import partial

from xrec.annotate import find_aspects, read_annotations
from xrec.config import AnnotationsSource, PrepareConfig, ReleaseSource, SampleSource
from xrec.data import (
    EXTENDS,
    Source,
    dataset_settings,
    find_release_files,
    find_table_files,
    prepare_dataset,
    read_release,
    read_tables,
)
from xrec.jobs.output import Output
from xrec.sample import generate_town, town_tables
from xrec.storage import (
    Manifest,
    check_access,
    find_manifest,
    location_of,
    open_location,
    read_manifest,
)


def output(config: PrepareConfig, *, exact: bool = True) -> Output:
    """Return the job's output; reads only source files that changed since the dataset was made.

    Without `exact`, compares no files, because they may be gone by now.
    """
    location, settings = location_of(config, "dataset"), dataset_settings(config)
    manifest = find_manifest(location, "dataset")
    if manifest is None:
        return Output(location, "dataset", settings, {})
    if exact or isinstance(config.source, AnnotationsSource):
        source = _source(config)
        inputs = source.hashes(manifest)
        return Output(location, "dataset", settings, inputs)
    files = tuple(manifest.inputs)
    return Output(location, "dataset", settings, dict.fromkeys(files, ""), unchecked=files)


def run(config: PrepareConfig) -> Manifest:
    """Make the dataset in this process; raises what `prepare_dataset` raises."""
    find = None if config.aspects_from is None else find_aspects
    return prepare_dataset(config, _source(config), find)


def _source(config: PrepareConfig) -> Source:
    """Return the reader of the source, with any dataset that is extended among its inputs."""
    source = _reader(config)
    if config.extends is None:
        return source
    earlier = read_manifest(open_location(config.extends, config.storage), "dataset")
    return replace(source, inputs={**source.inputs, EXTENDS: earlier.fingerprint})


def _reader(config: PrepareConfig) -> Source:
    source, storage = config.source, config.storage
    if isinstance(source, SampleSource):
        return Source("sample", lambda staging: staging.add(town_tables(generate_town(source))))
    if isinstance(source, AnnotationsSource):
        uri = config.artifact("annotations")
        manifest = read_manifest(open_location(uri, storage), "annotations")
        return Source(
            uri,
            lambda staging: staging.add(read_annotations(uri, storage)),
            inputs={"annotations": manifest.fingerprint},
        )
    folder = open_location(source.uri, storage)
    check_access(folder, storage)
    if isinstance(source, ReleaseSource):
        files = find_release_files(folder)
        return Source(source.uri, partial(read_release, files=files), files)
    found = find_table_files(folder, source)
    return Source(source.uri, partial(read_tables, files=found, source=source), found)
