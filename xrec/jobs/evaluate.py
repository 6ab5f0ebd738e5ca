"""Job `evaluate`: explanations and their references in, metrics and a report out."""

from collections.abc import Mapping

from xrec.backfill import read, read_failed
from xrec.bulk import read_published
from xrec.config import EvaluateConfig, identity_of
from xrec.jobs.output import Output
from xrec.storage import Kind, Manifest, location_of, manifest_of


def output(config: EvaluateConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    return _output(config, _manifests(config))


def run(config: EvaluateConfig) -> Manifest:
    """Score the explanations of held-out pairs in this process, unless it is done.

    Raises what `check_lineage` and `evaluate` raise.
    """
    from xrec.evaluate.run import check_lineage, evaluate

    manifests = _manifests(config)
    check_lineage(config, manifests)
    if (done := _output(config, manifests).done()) is not None:
        return done
    table = (config.artifact("explanations"), manifests["explanations"].version, config.storage)
    explanations = read(*table).to_table(columns=["user_id", "item_id", "explanation", "kind"])
    failed = read_failed(*table).to_table(columns=["user_id", "item_id", "reason"])
    return evaluate(config, explanations, failed, manifests)


def _manifests(config: EvaluateConfig) -> dict[str, Manifest]:
    kinds: tuple[Kind, ...] = ("dataset", "graph", "adapter")
    manifests: dict[str, Manifest] = {kind: manifest_of(config, kind) for kind in kinds}
    manifests["explanations"] = read_published(location_of(config, "explanations"), "explanations")
    return manifests


def _output(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> Output:
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    return Output(location_of(config, "evaluation"), "evaluation", identity_of(config), inputs)
