"""A command per job: CONFIG in, one library call, exit code out."""

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrec.cli.printing import show_config, summary
from xrec.cli.reporting import AsJson, ConfigPath, DryRun, Overrides, keys_option
from xrec.errors import ArtifactNotFoundError, DataError, StorageError, first_line_of
from xrec.jobs import ARTIFACT_OF, job_named, run_job

if TYPE_CHECKING:
    from xrec.config import ServeConfig

JOB_HELP = {
    "build-sample-llm": """Train the demo's toy language model.

Takes a few minutes on CPUs, and spares the sample a download.

In:   nothing
Out:  <workspace>/llm in the Hugging Face layout; use it as llm.model: workspace:llm

Examples:
  xrec build-sample-llm configs/sample.yaml
  xrec build-sample-llm configs/sample.yaml num_steps=400
""",
    "annotate": """Write texts and aspects from reviews.

Writes what an item is like, what a user likes, and why the user would enjoy the item. Run the same
command again to continue after an interruption.

In:   source: a table of reviews (user_id, item_id, review), optionally one of items
Out:  <workspace>/annotations; read it with prepare and 'source: {kind: annotations}'

Examples:
  xrec annotate configs/instruments.yaml
  xrec annotate configs/instruments.yaml limit=500
""",
    "prepare": """Turn raw files into a dataset.

Held-out pairs are never training edges. rejected.parquet lists the rows that cannot be used; if
their share is above max_rejected_share, the job fails.

In:   source: annotations, your own tables, the public XRec release, or the sample
Out:  <workspace>/dataset: users, items, interactions and explanations

Examples:
  xrec prepare configs/yelp.yaml
  xrec prepare configs/yelp.yaml workspace=s3://my-bucket/yelp splits.test=0.1
""",
    "pretrain-graph": """Train a vector per user and item.

Trains LightGCN on Ray Train, stops early on validation NDCG@20, and keeps the best epoch.

In:   <workspace>/dataset
Out:  <workspace>/graph, with Recall@20 and NDCG@20

Examples:
  xrec pretrain-graph configs/yelp.yaml
  xrec pretrain-graph configs/yelp.yaml workers.num_processes=4 training.num_epochs=100
""",
    "neighbors": """Count who chose what together.

Each item gets the items that its users chose most, and lower bounds of how many people chose both.
Recommendations are ranked by them too, and get reasons from them.

In:   <workspace>/dataset, and graph if there is one
Out:  <workspace>/neighbors

Examples:
  xrec neighbors configs/yelp.yaml
  xrec neighbors configs/yelp.yaml min_people=10
""",
    "train-adapter": """Train the language model's adapter.

Trains mixtures of experts with Ray Train and DeepSpeed. The language model itself stays frozen.

In:   <workspace>/dataset and graph, llm.model
Out:  <workspace>/adapter, in the layout of model hubs

Examples:
  xrec train-adapter configs/yelp.yaml
  xrec train-adapter configs/yelp.yaml training.max_steps=200 model.injection=direct
""",
    "recommend": """Find each user's best new items.

Leaves out items that the user has interacted with or disliked, and items that are not eligible.
xrec backfill publishes the pairs with their explanations.

In:   <workspace>/dataset, graph and neighbors (or one of these two), eligible.items
Out:  <workspace>/recommendations: Parquet files of user_id, item_id, rank, score and evidence

Examples:
  xrec recommend configs/yelp.yaml
  xrec recommend configs/yelp.yaml 'eligible={items: in_stock.csv}' k=50
""",
    "backfill": """Explain recommendations in bulk.

One commit at the end publishes the pairs with their ranks and explanations, or the reasons why they
have none. Run the same command again to continue after an interruption.

In:   <workspace>/dataset, graph, adapter and recommendations, llm.model
Out:  <workspace>/explanations: a Delta table with a row for each recommended pair

Examples:
  xrec backfill configs/yelp.yaml limit=1000
  xrec backfill configs/yelp.yaml 'retry_failed=[engine_error]'
""",
    "evaluate": """Score explanations against references.

Explains held-out pairs, and the same pairs with shuffled vectors, and scores the texts.

In:   <workspace>/dataset, graph and adapter, llm.model
Out:  <workspace>/evaluation: metrics as JSON and Parquet, report.html

Examples:
  xrec evaluate configs/yelp.yaml
  xrec evaluate configs/yelp.yaml max_pairs=500 encoder=null
""",
    "compare": """Compare ways to write explanations.

Runs each entry (ours, variants, baselines, texts from elsewhere), once per seed if chance affects
it, and scores all of them on the same held-out pairs. Run the same command again to continue, or to
add entries.

In:   <workspace>/dataset and graph, llm.model, tables of texts
Out:  <workspace>/comparison: table.md and table.parquet, a folder per entry and seed

Examples:
  xrec lab compare configs/instruments-compare.yaml
  xrec lab compare configs/yelp.yaml 'entries=[ours,nearest,profile]' 'seeds=[0,1,2]'
""",
}
_WITH_OUTLOOK = ("annotate", "backfill")  # their modules have `look_ahead`
_SERVING = "serving at {0} (the page; API: {0}/openapi.json; Ctrl-C ends it)"
# Ray reads these when it is imported. With them, it prints the replicas' lines unchanged.
_PLAIN_LINES = {"RAY_DISABLE_WORKER_LOG_PREFIX": "1", "RAY_DEDUP_LOGS": "0"}


def job_command(name: str) -> Callable[..., None]:
    """Return the command that runs a job."""

    def run(
        config_path: ConfigPath,
        overrides: Overrides = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        keys: Annotated[bool, keys_option(name)] = False,
    ) -> None:
        from xrec.backfill import present
        from xrec.config import CONFIG_TYPES, load_config

        config = load_config(CONFIG_TYPES[name], config_path, overrides or [])
        if dry_run:
            show_config(config)
            for line in _outlook(name, config):
                typer.echo(f"# {line}")
        elif (manifest := run_job(name, config := present(config))) is not None:
            typer.echo(summary(manifest, config.artifact(manifest.kind), as_json=as_json))
        elif as_json:
            typer.echo(json.dumps({"artifact": ARTIFACT_OF[name], "state": "limit reached"}))
        else:
            limit = getattr(config, "limit", 0)
            typer.echo(f"reached limit={limit:,}; run the command without it to do the rest")
            typer.echo("\n".join(_outlook(name, config)))

    run.__name__, run.__doc__ = name, JOB_HELP[name]
    return run


def _outlook(name: str, config: Any) -> Iterator[str]:
    """Yield what a bulk job would do and cost, if its input can be read."""
    from xrec.backfill import present

    if name not in _WITH_OUTLOOK:
        return
    try:
        yield from job_named(name).look_ahead(present(config))  # type: ignore[attr-defined]
    except (ArtifactNotFoundError, DataError, StorageError) as error:
        yield f"cannot tell yet what the run would do: {first_line_of(error)}"


def serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    write_deployment: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            metavar="FILE", encoding="utf-8", help="Write the config for serve deploy, and exit."
        ),
    ] = None,
    dry_run: DryRun = False,
    keys: Annotated[bool, keys_option("serve")] = False,
) -> None:
    """Serve explanations over HTTP.

    Answers with stored explanations, and has the model write missing ones. Picks up what xrec
    refresh or a rollback publishes, without downtime. SIGHUP reloads the project file.

    In:   <workspace>/dataset, graph and adapter, llm.model; explanations if they exist
    Out:  http://127.0.0.1:8000, with a page at / and the API at /openapi.json

    Examples:
      xrec serve configs/yelp.yaml http.port=9000
      xrec serve configs/yelp.yaml --write-deployment serve.yaml
    """
    from xrec.config import ServeConfig, load_config

    def load() -> "ServeConfig":
        return load_config(ServeConfig, config_path, overrides or [])

    if dry_run:
        show_config(load())
    elif write_deployment is not None:
        from xrec.serve.app import deployment_yaml

        write_deployment.write(deployment_yaml(load()))
        typer.echo(f"{write_deployment.name}: serve deploy {write_deployment.name}")
    else:
        os.environ.update(_PLAIN_LINES)
        from xrec.jobs.serve import run

        run(load(), load, lambda url: typer.echo(_SERVING.format(url)))
