"""Job `import-adapter`: the files of the public XRec release in, graph and adapter out."""

from jobs.output import Output, llm_fingerprint
from xrec.config.adapter import ImportAdapterConfig
from xrec.release.adapter import (
    CONVERTER_FILES,
    converter_hashes,
    import_release,
    import_settings,
)
from xrec.storage import (
    MANIFEST,
    Manifest,
    check_access,
    check_artifacts,
    location_of,
    manifest_of,
    open_location,
)


def output(config: ImportAdapterConfig, *, exact: bool = True) -> Output:
    """The adapter that `config` asks for, with the graph beside it if that is made too.

    Reads the release's converters, but not without `exact`. See jobs.output.
    """
    graph = location_of(config, "graph")
    is_there = (graph / MANIFEST).is_file()
    inputs = {
        "dataset": manifest_of(config, "dataset").fingerprint,
        "graph": None
        if config.import_graph and not is_there
        else manifest_of(config, "graph").fingerprint,
        "base_model": llm_fingerprint(config, config.llm, exact=exact),
        **(converter_hashes(config) if exact else dict.fromkeys(CONVERTER_FILES)),
    }
    return Output(
        location_of(config, "adapter"),
        "adapter",
        import_settings(config),
        {name: value or "" for name, value in inputs.items()},
        unchecked=tuple(name for name, value in inputs.items() if value is None),
        beside=(Output(graph, "graph", {}, {}),) if config.import_graph else (),
    )


def run(config: ImportAdapterConfig) -> Manifest:
    """Check that the storage can be used, and import in this process."""
    check_access(open_location(config.release, config.storage), config.storage)
    check_artifacts(config, "dataset", "graph", "adapter")
    return import_release(config)
