"""Contestants as models: WORKSPACE with the artifacts, or WORKSPACE#URI with another adapter."""

from collections.abc import Sequence

from benchmarks.workspace import sources_of
from xrec.config.engine import EngineConfig
from xrec.config.llm import LLMConfig
from xrec.data import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.storage import open_location, read_manifest


def same_dataset(sources: Sequence[str]) -> Dataset:
    """Return the dataset of all workspaces; raises ArtifactMismatchError if they have several."""
    places = {f"{_workspace(source)}/dataset" for source in sources}
    found = {place: read_manifest(open_location(place), "dataset").fingerprint for place in places}
    if len(set(found.values())) > 1:
        raise ArtifactMismatchError(
            f"datasets {found}; expected the same one in all workspaces, whose pairs are compared"
        )
    return read_dataset(open_location(min(places)))


def load_model_of(source: str, llm: LLMConfig) -> Explainer:
    """Return the model of a contestant; raises what `load_explainer` raises."""
    workspace = _workspace(source)
    sources = sources_of(workspace, llm, source.partition("#")[2] or None)
    return load_explainer(sources, device="auto", engine=EngineConfig())


def _workspace(source: str) -> str:
    return source.partition("#")[0]
