"""A bulk run that writes an entry's texts, its texts afterwards, and how fast it was."""

from xrec.backfill import finish, has_work, run_backfill
from xrec.backfill.plan import run_arguments
from xrec.backfill.task import LoadExplainer, load_task_explainer
from xrec.bulk import Identity, open_run
from xrec.config.backfill import BackfillConfig
from xrec.lab.compare.made import Made, texts_of_run
from xrec.storage import Manifest, location_of


def write_texts(
    config: BackfillConfig, identity: Identity, load: LoadExplainer = load_task_explainer
) -> Manifest:
    """Write what is left of the run, and return its manifest; Ray is needed if anything is.

    Raises what `xrec backfill` raises.
    """
    run = open_run(**run_arguments(config, identity))
    manifest = run_backfill(config, run, load) if has_work(config, run) else finish(config, run)
    assert manifest is not None, "a run without a limit is finished when it ends"
    return manifest


def written(config: BackfillConfig, manifest: Manifest) -> Made:
    """What a finished run of `write_texts` wrote."""
    return texts_of_run(location_of(config, "explanations"), manifest, config.storage)


def pairs_per_second(manifest: Manifest) -> float | None:
    """Pairs a second of a process at work; None if all of them were carried over."""
    costs, counts = manifest.metrics["costs"], manifest.row_counts
    num_done = counts["explanations"] + counts["failed"] - costs.get("carried", 0)
    return num_done / costs["seconds"] if num_done and costs.get("seconds") else None
