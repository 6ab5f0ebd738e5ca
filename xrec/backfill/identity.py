"""The identity of a run, and of each pair: the settings and inputs that its texts depend on.

A run is named by a fingerprint of its own and of its pairs. URIs are no part of it.

The content key of a pair is a hash of everything that the model's text for it depends on: if it did
not change, the text need not be generated again. It covers the user's profile and vector (a history
has its effect through the vector), the item's title, profile and vector, the chosen aspects with
their evidence, and the settings of the whole run: language model, adapter with its prompt template,
decoding, dtype. It covers neither the other pairs of the run nor the titles of other items, which a
text must not name: the carrying over checks those itself (explain.still_good).
"""

import hashlib
import json
from collections.abc import Mapping

from xrec.adapter.artifact import read_adapter
from xrec.adapter.pairs import Pair
from xrec.aspects import aspects_of
from xrec.bulk import Identity
from xrec.config.backfill import BackfillConfig, RecommendedPairs, TablePairs
from xrec.config.shared import (
    ColdStartJobConfig,
    ExplanationsJobConfig,
)
from xrec.data.cold_start import cold_start_anywhere, read_cold_start
from xrec.generate.explainer import Explainer
from xrec.generate.loading import Sources, check_sources, model_inputs
from xrec.llm.prompt import PairTexts
from xrec.llm.source import anywhere
from xrec.storage import Location, Manifest, fingerprint_of, location_of, manifest_of, open_location


def identify(config: BackfillConfig) -> Identity:
    """The identity of a run of `config`; raises what `check_sources` raises."""
    checked = check_sources(sources_of(config))
    # check_sources has checked that llm.model is the adapter's model.
    return _identity(config, checked.dataset, checked.model_inputs, checked.aspects)


def identify_unchecked(config: BackfillConfig) -> Identity:
    """What `identify` returns, without a look at the language model.

    Raises ArtifactNotFoundError if an input is not finished.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    adapter = read_adapter(location_of(config, "adapter"))
    prompt, uri = adapter.config.prompt, config.artifact("aspects")
    aspects = aspects_of(prompt, uri, dataset, config.storage)
    return _identity(config, dataset, model_inputs(adapter, graph), aspects)


def _identity(
    config: BackfillConfig, dataset: Manifest, model: Mapping[str, str], aspects: Manifest | None
) -> Identity:
    sources = sources_of(config)
    inputs = {"dataset": dataset.fingerprint, **model}
    if aspects is not None:
        inputs["aspects"] = aspects.fingerprint
    if sources.cold_start:
        inputs["cold_start"] = read_cold_start(sources.cold_start, sources.storage).fingerprint
    settings = {
        "decoding": config.decoding.model_dump(mode="json"),
        "dtype": config.llm.dtype,
        "pairs": config.pairs.model_dump(mode="json", exclude={"uri"}),
    }
    return Identity(kind="explanations", config=settings, inputs=inputs)


def pairs_location(config: BackfillConfig, pairs: TablePairs | RecommendedPairs) -> Location:
    """Where the table of pairs, or the recommendations, lie."""
    if isinstance(pairs, RecommendedPairs) and pairs.uri is None:
        return location_of(config, "recommendations")
    assert pairs.uri is not None
    return open_location(pairs.uri, config.storage)


def sources_of(config: ExplanationsJobConfig) -> Sources:
    """Return what the workers load, with URIs that do not depend on the working directory."""
    names = ("dataset", "graph", "adapter", "aspects")
    locations = {name: location_of(config, name) for name in names}
    tables = config.cold_start if isinstance(config, ColdStartJobConfig) else None
    return Sources(
        **{name: location.shared_uri for name, location in locations.items()},
        llm=anywhere(config.llm),
        storage=config.storage,
        cold_start=cold_start_anywhere(tables, config.storage),
    )


def shared_key(identity: Identity) -> str:
    """Return the part of the content key that all pairs of a run have in common."""
    settings = {name: identity.config[name] for name in ("decoding", "dtype")}
    return fingerprint_of(
        [
            settings,
            {name: identity.inputs.get(name) for name in ("base_model", "adapter")},
        ]
    )


def content_key(explainer: Explainer, shared: str, pair: Pair, texts: PairTexts) -> str:
    """Return the content key of a pair with these texts: 16 hex digits of a SHA-256.

    `shared` is the run's `shared_key`.
    """
    digest = hashlib.sha256()
    chosen = json.dumps([list(vars(evidence).values()) for evidence in texts.aspects])
    for text in (shared, texts.user_profile, texts.item_title, texts.item_profile, chosen):
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)
    for vector in (explainer.graph.users[pair.user_index], explainer.graph.items[pair.item_index]):
        digest.update(vector.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
