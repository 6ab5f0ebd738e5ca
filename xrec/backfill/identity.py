"""The identity of a run: the settings and inputs that its explanations depend on.

The fingerprint of both names the run. An output belongs to one run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xrec.adapter.artifact import read_adapter
from xrec.config.backfill import BackfillConfig
from xrec.config.serve import ServeConfig
from xrec.config.shared import ColdStartConfig, StorageConfig
from xrec.data.cold_start import read_cold_start
from xrec.generate.explainer import Sources, check_sources, model_inputs
from xrec.storage import (
    Manifest,
    location_of,
    manifest_of,
    open_location,
    read_manifest,
    run_fingerprint,
)


@dataclass(frozen=True)
class RunIdentity:
    """`config` holds the settings, `inputs` the fingerprints of what the run reads, by name."""

    config: dict[str, Any]
    inputs: dict[str, str]

    @property
    def run(self) -> str:
        """The run's fingerprint."""
        return run_fingerprint("explanations", self.config, self.inputs)


def identify(config: BackfillConfig, pairs_fingerprint: str) -> RunIdentity:
    """Return the identity of a run of `config` over the pairs with this fingerprint.

    Raises what `check_sources` raises, and ArtifactNotFoundError if `carry_from` is not finished.
    """
    checked = check_sources(sources_of(config))
    # check_sources has checked that llm.model is the adapter's model.
    return _identity(config, checked.dataset, checked.model_inputs, pairs_fingerprint)


def identify_unchecked(config: BackfillConfig, pairs_fingerprint: str) -> RunIdentity:
    """Return what `identify` returns, without a look at the language model.

    Raises ArtifactNotFoundError if an input is not finished.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    adapter = read_adapter(location_of(config, "adapter"))
    return _identity(config, dataset, model_inputs(adapter, graph), pairs_fingerprint)


def _identity(
    config: BackfillConfig, dataset: Manifest, model: Mapping[str, str], pairs_fingerprint: str
) -> RunIdentity:
    sources = sources_of(config)
    inputs = {"dataset": dataset.fingerprint, **model, "pairs": pairs_fingerprint}
    if sources.cold_start:
        inputs["cold_start"] = read_cold_start(sources.cold_start, sources.storage).fingerprint
    if config.carry_from:
        inputs["carry_from"] = read_manifest(
            open_location(config.carry_from, config.storage), "explanations"
        ).fingerprint
    settings = {
        "decoding": config.decoding.model_dump(mode="json"),
        "dtype": arithmetic(config),
        "rows_per_chunk": config.rows_per_chunk,
    }
    return RunIdentity(settings, inputs)


def arithmetic(config: BackfillConfig | ServeConfig) -> str:
    """Return the arithmetic that texts depend on: the dtype, and whether layers multiply int8."""
    return (
        f"{config.llm.dtype}, int8" if config.engine.linear_layers == "int8" else config.llm.dtype
    )


def output_uri(config: BackfillConfig, run: str) -> str:
    """Return where the run is written: `explanations`, or with `new_run` a folder beside it."""
    uri = config.artifact("explanations").rstrip("/")
    return f"{uri}-{run[:8]}" if config.new_run else uri


def sources_of(config: BackfillConfig | ServeConfig) -> Sources:
    """Return what the workers load, with URIs that do not depend on the working directory."""
    locations = {name: location_of(config, name) for name in ("dataset", "graph", "adapter")}
    return Sources(
        **{name: location.shared_uri for name, location in locations.items()},
        llm=config.llm,
        storage=config.storage,
        cold_start=_shared(config.cold_start, config.storage) if config.cold_start else None,
    )


def _shared(tables: ColdStartConfig, storage: StorageConfig) -> ColdStartConfig:
    uris = tables.model_dump(exclude_none=True)
    return ColdStartConfig(
        **{name: open_location(uri, storage).shared_uri for name, uri in uris.items()}
    )
