"""Job `import-adapter`: the converters and vectors of the public XRec release in, graph and adapter artifacts out."""

from xrec.config.adapter import ImportAdapterConfig
from xrec.release.adapter import import_release
from xrec.storage import Manifest, check_access, open_location


def run(config: ImportAdapterConfig) -> Manifest:
    """Check that the storage can be used, import in this process."""
    for uri in (
        config.release,
        *(config.artifact(name) for name in ("dataset", "graph", "adapter")),
    ):
        check_access(open_location(uri, config.storage), config.storage)
    return import_release(config)


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("import-adapter")
