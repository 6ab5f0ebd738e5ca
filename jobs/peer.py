"""Job `peer`: dataset in, a published model that was trained on it and its texts out."""

from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.room import demand_of_actors, demand_of_workers
from jobs.output import Output, llm_fingerprint
from xrec.config.baselines import PeerConfig
from xrec.data import check_has_explanations
from xrec.errors import ArtifactNotFoundError
from xrec.lab.baselines import (
    peer_identity,
    plan_texts,
    publish_texts,
    texts_identity,
    train_peer,
    write_peer_texts,
)
from xrec.storage import Manifest, check_artifacts, location_of


def output(config: PeerConfig, *, exact: bool = True) -> Output:
    """The trained peer that `config` asks for, with its texts beside it; see jobs.output."""
    base_model = (
        llm_fingerprint(config, config.llm, exact=exact)
        if config.kind == "pepler" and config.llm
        else None
    )
    settings, inputs = peer_identity(config, base_model=base_model or "")
    return Output(
        location_of(config, "peer"),
        "peer",
        settings,
        inputs,
        unchecked=("base_model",) if config.kind == "pepler" and not base_model else (),
        records=("checkpoints/run.json",),
        is_whole=lambda manifest: _texts_are_there(config),
    )


def _texts_are_there(config: PeerConfig) -> bool:
    try:
        identity = texts_identity(config)
    except ArtifactNotFoundError:
        return False
    location = location_of(config, "explanations")
    texts = Output(location, "explanations", identity.config, identity.inputs)
    return texts.found().state == "same"


def run(config: PeerConfig) -> Manifest:
    """Train the peer and write its texts, each unless it is there; returns the texts' manifest.

    What is finished starts no cluster. Raises what `train_peer` and `write_peer_texts` raise.
    """
    check_artifacts(config, "dataset", "peer", "explanations")
    check_has_explanations(location_of(config, "dataset"))
    if output(config).done() is None:
        with ensure_ray(config.ray):
            check_cluster(
                demand_of_workers(config.scaling),
                reads=[config.artifact("dataset")],
                writes=[config.artifact("peer")],
                storage=config.storage,
            )
            train_peer(config)
            return _written(config)
    manifest = publish_texts(plan_texts(config))
    if manifest is not None:
        return manifest
    with ensure_ray(config.ray):
        return _written(config)


def _written(config: PeerConfig) -> Manifest:
    """The texts' manifest, when all are written; Ray must be initialised."""
    reads = [config.artifact("dataset"), config.artifact("peer")]
    reads += [] if config.pairs is None else [config.pairs]
    check_cluster(
        demand_of_actors(config.actors, 1),
        reads=reads,
        writes=[config.artifact("explanations")],
        storage=config.storage,
    )
    return write_peer_texts(config)


if __name__ == "__main__":
    from jobs.command.commands import run_job

    run_job("peer")
