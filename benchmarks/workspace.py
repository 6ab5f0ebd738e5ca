"""The artifacts of a workspace, as the benchmarks load them."""

from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.generate.loading import Sources


def sources_of(workspace: str, llm: LLMConfig, adapter: str | None = None) -> Sources:
    """Return the workspace's artifacts with the model `llm`, or with another adapter's URI.

    Its artifact `aspects` is read only if the adapter's prompt asks for aspects.
    """
    return Sources(
        dataset=f"{workspace}/dataset",
        graph=f"{workspace}/graph",
        adapter=adapter or f"{workspace}/adapter",
        llm=llm,
        storage=StorageConfig(),
        aspects=f"{workspace}/aspects",
    )
