"""Job `prepare`: raw files (or the sample's generator) in, dataset artifact out."""

from dataclasses import replace
from functools import partial

from xrec.annotate import find_aspects, read_annotations
from xrec.config.data import AnnotationsSource, PrepareConfig, ReleaseSource, SampleSource
from xrec.data import dataset_settings, prepare_dataset
from xrec.data.dataset import EXTENDS
from xrec.data.release import find_release_files, read_release
from xrec.data.source import Source
from xrec.data.tables import find_table_files, read_tables
from xrec.jobs.output import Output
from xrec.sample import generate_town, town_tables
from xrec.storage import (
    Manifest,
    check_access,
    location_of,
    manifest_there,
    open_location,
    read_manifest,
)


def output(config: PrepareConfig, *, exact: bool = True) -> Output:
    """The dataset that `config` asks for; see xrec.jobs.output.

    Reads those of the source's files that changed since the dataset was made, or the manifest of
    the annotations. Without `exact` it compares no files, which may be gone by now.
    """
    location, settings = location_of(config, "dataset"), dataset_settings(config)
    there = manifest_there(location, "dataset")
    if there is None:
        return Output(location, "dataset", settings, {})
    if exact or isinstance(config.source, AnnotationsSource):
        source = _source(config)
        inputs = source.hashes(source.find_files(), there)
        return Output(location, "dataset", settings, inputs)
    files = tuple(there.inputs)
    return Output(location, "dataset", settings, dict.fromkeys(files, ""), unchecked=files)


def run(config: PrepareConfig) -> Manifest:
    """Make the dataset; returns its manifest. For the errors see `prepare_dataset`."""
    wanted = config.aspects_from
    find = None if wanted is None else partial(find_aspects, config=wanted)
    return prepare_dataset(config, _source(config), find)


def _source(config: PrepareConfig) -> Source:
    """The reader that `source.kind` names; what the dataset extends is among its inputs."""
    source = _reader(config)
    if config.extends is None:
        return source
    earlier = read_manifest(open_location(config.extends, config.storage), "dataset")
    return replace(source, inputs={**source.inputs, EXTENDS: earlier.fingerprint})


def _reader(config: PrepareConfig) -> Source:
    source = config.source
    if isinstance(source, SampleSource):
        return Source("sample", lambda staging, _: staging.add(town_tables(generate_town(source))))
    if isinstance(source, AnnotationsSource):
        uri, storage = config.artifact("annotations"), config.storage
        there = read_manifest(open_location(uri, storage), "annotations")
        inputs = {"annotations": there.fingerprint}
        return Source(
            uri, lambda staging, _: staging.add(read_annotations(uri, storage)), inputs=inputs
        )
    folder = open_location(source.uri, config.storage)
    check_access(folder, config.storage)
    if isinstance(source, ReleaseSource):
        return Source(source.uri, read_release, partial(find_release_files, folder))
    find = partial(find_table_files, folder, source)
    return Source(source.uri, partial(read_tables, source=source), find)
