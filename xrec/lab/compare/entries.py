"""The entries of a comparison, each with a seed in a folder of its own, and the pairs of all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from xrec.config import (
    ADAPTERS,
    BASELINES,
    WITHOUT_ASPECTS,
    BackfillConfig,
    CompareConfig,
    Config,
    EndpointConfig,
    PromptConfig,
    TablePairs,
    TrainAdapterConfig,
    identity_of,
)
from xrec.data import Dataset, HeldOutPair, drawn_pairs, held_out_pairs
from xrec.errors import DataError
from xrec.lab.baselines.baseline import recipe_of
from xrec.lab.measures.measures import metrics_identity
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    content_hash,
    location_of,
    manifest_of,
    open_location,
    parquet_bytes,
)

_MODEL_CHANGES: dict[str, dict[str, str]] = {
    "without_injection": {"injection": "none"},
    "without_both": {"injection": "none"},
    "random_vectors": {"vectors": "random"},
    "constant": {"vectors": "constant"},
}


@dataclass(frozen=True)
class Entry:
    """An entry with a seed.

    seed: None if its texts do not depend on it; it is there once then.
    """

    name: str
    seed: int | None
    comparison: Location

    @property
    def title(self) -> str:
        """The name with the seed, which is the folder's name."""
        return self.name if self.seed is None else f"{self.name}-{self.seed}"

    @property
    def location(self) -> Location:
        """The folder that holds what is made of it, and its scores."""
        return self.comparison / self.title


def is_seeded(config: CompareConfig, name: str) -> bool:
    """Return whether the texts of an entry depend on the seed."""
    decoding = config.decoding
    if name in ("zero_shot", "endpoint"):
        return decoding.temperature > 0 or decoding.retry_temperature is not None
    return name in (*ADAPTERS, *BASELINES)


def training_of(
    config: CompareConfig, name: str, seed: int, adapter: Location
) -> TrainAdapterConfig:
    """Return the config that trains the adapter of an entry and writes it to `adapter`."""
    own: dict[str, Any] = {
        "artifacts": {**config.artifacts, "adapter": adapter.uri},
        "model": config.model.model_copy(update=_MODEL_CHANGES.get(name)),
        "prompt": _prompt_of(name, config.prompt),
        "training": config.training.model_copy(update={"seed": seed}),
    }
    return TrainAdapterConfig.model_validate(_shared(config, TrainAdapterConfig) | own)


def backfill_of(
    config: CompareConfig,
    seed: int,
    pairs: str,
    explanations: Location,
    adapter: Location,
    endpoint: EndpointConfig | None = None,
) -> BackfillConfig:
    """Return the config of a backfill of the table `pairs` that no share of failures stops.

    endpoint: what writes the texts; None for the language model.
    """
    uris = {"explanations": explanations.uri, "adapter": adapter.uri}
    own: dict[str, Any] = {
        "pairs": TablePairs(kind="table", uri=pairs),
        "artifacts": {**config.artifacts, **uris},
        "max_failed_share": 1.0,
        "gate": None,
        "decoding": config.decoding.model_copy(update={"seed": seed}),
    }
    if endpoint is not None:
        own["engine"] = endpoint
    return BackfillConfig.model_validate(_shared(config, BackfillConfig) | own)


def _shared(config: CompareConfig, job: type[Config]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in job.model_fields if hasattr(config, name)}


def _prompt_of(variant: str, full: PromptConfig) -> PromptConfig:
    """Return the prompt of a variant; without profiles it has no aspects, but keeps the title."""
    if variant in ("without_profile", "without_both"):
        parts = {
            "user": full.user.replace("{user_profile}", "").rstrip(),
            "item": full.item.replace("{item_profile}", "").rstrip(),
        }
        return PromptConfig.model_validate({**full.model_dump(), **parts, "aspects": 0})
    return full.model_copy(update={"aspects": 0}) if variant == WITHOUT_ASPECTS else full


def entries_of(config: CompareConfig) -> list[Entry]:
    """All entries, in the order of the config, each with its seeds in order."""
    comparison = location_of(config, "comparison")
    return [
        Entry(name, seed, comparison)
        for name in config.entries
        for seed in (config.seeds if is_seeded(config, name) else (None,))
    ]


def comparison_identity(
    config: CompareConfig, base_model: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and the inputs of a comparison, known before the work.

    base_model: the fingerprint of the language model, None if no entry has one.

    Raises ArtifactNotFoundError if an input is not finished, StorageNotFoundError if texts are
    missing.
    """
    names = set(config.entries)
    elsewhere = {name: config.texts[name] for name in config.entries if name in config.texts}
    unused = {"encoder", "bart", "bleurt", "judges", "claims"}  # they are in `metrics`
    if not config.has_language_model:
        unused |= {"llm", "engine"}
        unused |= set() if "endpoint" in names else {"endpoint", "decoding", "prompt"}
    unused |= set() if names & set(ADAPTERS) else {"model", "deepspeed"}
    settings = {
        **{name: each for name, each in identity_of(config).items() if name not in unused},
        "metrics": metrics_identity(config, config.storage),
        "texts": {name: identity_of(texts) for name, texts in elsewhere.items()},
        "baselines": {
            kind: asdict(recipe_of(kind, config.training)) for kind in BASELINES if kind in names
        },
    }
    dataset = manifest_of(config, "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if config.has_language_model or "nearest" in names:
        inputs["graph"] = manifest_of(config, "graph").fingerprint
    if config.has_language_model:
        inputs["base_model"] = base_model or ""
    for name, texts in elsewhere.items():
        content = open_location(texts.uri, config.storage).read_bytes()
        inputs[f"texts {name}"] = content_hash(content)
    return settings, inputs


@dataclass(frozen=True)
class ComparedPairs:
    """The held-out pairs that all entries write for, and the URI of the table of their ids."""

    pairs: tuple[HeldOutPair, ...]
    uri: str
    fingerprint: str


def compared_pairs(config: CompareConfig, dataset: Dataset) -> list[HeldOutPair]:
    """Return the explained pairs of split test, or those of them that are drawn.

    Raises DataError if they are of fewer than two users: there is no interval then.
    """
    pairs = drawn_pairs(held_out_pairs(dataset, "test"), config.max_pairs)
    if len({pair.user_id for pair in pairs}) < 2:
        raise DataError(
            f"{config.artifact('dataset')}: {len(pairs)} explained pairs in split test, of fewer "
            "than two users, so there are no references to compare with; prepare the dataset with "
            "a larger splits.test",
            code="no_references",
            key="splits.test",
            saw=len(pairs),
        )
    return pairs


def write_pairs(comparison: Location, pairs: Sequence[HeldOutPair]) -> ComparedPairs:
    """Write the table of the pairs, unless it is there.

    Its name has its fingerprint, so a run of other pairs leaves it as it is.
    """
    table = pa.Table.from_pylist(
        [{"user_id": pair.user_id, "item_id": pair.item_id} for pair in pairs], PAIRS
    )
    data = parquet_bytes(table, PAIRS)
    fingerprint = content_hash(data)
    location = comparison / f"pairs-{fingerprint[:16]}.parquet"
    if not location.is_file() or location.read_bytes() != data:
        location.write_bytes(data)
    return ComparedPairs(tuple(pairs), location.uri, fingerprint)
