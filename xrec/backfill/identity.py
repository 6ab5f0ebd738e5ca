"""The identity of a run, and of each pair: the options and inputs that its texts depend on.

A run is named by a fingerprint of its identity and of its pairs. `xrec.config` defines which
options are part of the identity; URIs are not.

The content key of a pair is a hash of everything that the model's text for it depends on: if it did
not change, the text need not be generated again. It is followed by short hashes of its parts, which
show why a text is generated again. It covers the user's profile and vector (the history only acts
through the vector), the item's title, profile and vector, the chosen aspects with their evidence,
what people did (the supporting item and the step), and what all pairs of a run share: the language
model, the adapter with its prompt template, and every option of the identity except the choice of
pairs. It covers neither the other pairs of the run nor the titles of other items, which a text must
not name: carrying over checks those itself (explain.why_again).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xrec.adapter.config import model_inputs, read_config
from xrec.bulk import Identity
from xrec.config import (
    BackfillConfig,
    EndpointConfig,
    ExplanationsJobConfig,
    RecommendedPairs,
    TablePairs,
    identity_of,
    identity_of_texts,
    settings_of_texts,
)
from xrec.llm.source import known_fingerprint
from xrec.neighbors.sentences import sentences_fingerprint
from xrec.storage import Location, fingerprint_of, location_of, manifest_of, open_location

if TYPE_CHECKING:  # they import torch, which a status does not need
    from xrec.adapter.pairs import Pair
    from xrec.data import PeopleEvidence
    from xrec.generate.explainer import Explainer
    from xrec.llm.prompt import PairTexts


def identify(config: BackfillConfig) -> Identity:
    """Return the identity of a run of `config`; raise what `check_writer` raises."""
    return identify_unchecked(config, check_writer(config))


def identify_unchecked(config: BackfillConfig, model: Mapping[str, str] | None = None) -> Identity:
    """Return what `identify` returns, but without checking the adapter's language model.

    model: what `model_of` returns; None to find out without a download. Raises
    ArtifactNotFoundError if an input is not finished.
    """
    model = model_of(config) if model is None else model
    inputs = {"dataset": manifest_of(config, "dataset").fingerprint, **model}
    return Identity(kind="explanations", config=identity_of_texts(config), inputs=inputs)


def model_of(config: ExplanationsJobConfig, *, download: bool = False) -> dict[str, str]:
    """Return the fingerprints of what writes a job's texts.

    Without `download`, `base_model` is missing if a model without an adapter is not on this
    machine. Raises ArtifactNotFoundError if the adapter or its graph is not finished.
    """
    if isinstance(config.engine, EndpointConfig):
        return {"endpoint": fingerprint_of(identity_of(config.engine))}
    if config.llm is None:
        return {"sentences": sentences_fingerprint()}
    if config.writer == "adapter":
        graph, adapter = manifest_of(config, "graph"), manifest_of(config, "adapter")
        of_adapter = read_config(location_of(config, "adapter"), adapter)
        return model_inputs(of_adapter, adapter.fingerprint, graph)
    fingerprint = known_fingerprint(config.llm, config.storage, download=download)
    return {"base_model": fingerprint} if fingerprint else {}


def check_writer(config: ExplanationsJobConfig) -> dict[str, str]:
    """Return `model_of`, after checking that an adapter fits the other artifacts.

    Raises ArtifactNotFoundError, ArtifactMismatchError or ModelError.
    """
    if config.writer == "adapter":
        from xrec.text.writers import check_adapter

        check_adapter(config, manifest_of(config, "dataset"), manifest_of(config, "graph"))
    return model_of(config, download=True)


def pairs_location(config: BackfillConfig, pairs: TablePairs | RecommendedPairs) -> Location:
    """Return the location of the table of pairs, or of the recommendations."""
    if isinstance(pairs, RecommendedPairs):
        return location_of(config, "recommendations")
    return open_location(pairs.uri, config.storage)


def shared_key(identity: Identity) -> str:
    """Return the part of the content key that all pairs of a run share."""
    inputs = {name: each for name, each in identity.inputs.items() if name not in _BY_PAIR}
    return fingerprint_of([settings_of_texts(identity.config), inputs])


_BY_PAIR = ("dataset", "graph")
"""Inputs from which a content key covers only the parts about its own pair."""
PARTS = (
    *("settings", "user_texts", "item_texts", "aspects", "evidence"),
    *("user_vector", "item_vector"),
)
"""The parts of a content key; `settings` covers the run's options, adapter and model."""
_NO_VECTORS = (b"", b"")
_KEY_DIGITS, _PART_DIGITS = 16, 3  # the parts only show the reason; the key decides


def content_key(explainer: "Explainer", shared: str, pair: "Pair", texts: "PairTexts") -> str:
    """Return the content key of a pair with these texts: 16 hex digits of a SHA-256.

    They are followed by 3 digits for each of `PARTS`. `shared` is the run's `shared_key`.
    """
    chosen = [[*vars(each).values()] for each in texts.aspects]
    named, counted = [aspect for aspect, *_ in chosen], [evidence for _, *evidence in chosen]
    if texts.people is not None:
        counted.append([*vars(texts.people).values()])
    of_item = [texts.item_title, texts.item_profile]
    written = (shared, texts.user_profile, of_item, named, counted)
    if explainer.graph is None:
        return _key(written, _NO_VECTORS)
    of_pair = explainer.graph.users[pair.user_index], explainer.graph.items[pair.item_index]
    return _key(written, [vector.contiguous().numpy().tobytes() for vector in of_pair])


def sentence_key(shared: str, people: "PeopleEvidence | None") -> str:
    """Return the content key of a pair that is explained by what people did alone."""
    evidence = [] if people is None else [*vars(people).values()]
    return _key((shared, "", "", [], evidence), _NO_VECTORS)


def _key(written: Sequence[Any], vectors: Sequence[bytes]) -> str:
    """Return a content key of the first five of `PARTS`, as JSON values, and of the vectors."""
    parts = [*(json.dumps(each).encode() for each in written), *vectors]
    digests = [hashlib.sha256(part) for part in parts]
    whole = hashlib.sha256(b"".join(each.digest() for each in digests)).hexdigest()
    return whole[:_KEY_DIGITS] + "".join(each.hexdigest()[:_PART_DIGITS] for each in digests)


def changed_parts(before: str, now: str) -> tuple[str, ...]:
    """Return the `PARTS` in which two content keys differ; all of them if none is found."""
    starts = range(_KEY_DIGITS, len(now), _PART_DIGITS)
    places = {
        part: slice(start, start + _PART_DIGITS) for part, start in zip(PARTS, starts, strict=True)
    }
    found = tuple(part for part, place in places.items() if before[place] != now[place])
    return found or PARTS
