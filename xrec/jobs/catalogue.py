"""The jobs as the command line knows them: name and help. Their modules are imported when they run.

`xrec NAME CONFIG` and `xrec run CONFIG` both end in `Job.run`.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, cast

from xrec.errors import ConfigError

if TYPE_CHECKING:  # `xrec --help` must not wait for pydantic, pyarrow and s3fs
    from xrec.config import JobConfig, Project
    from xrec.jobs.output import Output
    from xrec.storage import Kind, Manifest


@dataclass(frozen=True)
class Job:
    """One job: the module `xrec.jobs.MODULE`, and a config of its class in xrec.config.

    `artifact` is what it makes, by the name of the config's key for its URI. Where
    `has_outlook`, its module has `look_ahead(config)`, lines of what a run would do and cost.
    """

    name: str
    artifact: "Kind | None"
    help: str
    has_outlook: bool = False

    def module(self) -> ModuleType:
        """The module of the job, which is imported now."""
        return importlib.import_module(f"xrec.jobs.{self.name.replace('-', '_')}")

    def load_config(self, path: str, overrides: Sequence[str]) -> "JobConfig":
        """The validated config from the project file at `path`; raises ConfigError."""
        from xrec.config import CONFIG_TYPES, load_config

        return load_config(CONFIG_TYPES[self.name], path, overrides)

    def run(self, config: "JobConfig") -> "Manifest | None":
        """Do the job; returns its artifact's manifest, None if its limit ended it first."""
        return cast("Manifest | None", self.module().run(config))

    def output(self, config: "JobConfig", *, exact: bool = True) -> "Output":
        """What the job would make: `output` of its module, without any of the work."""
        return cast("Output", self.module().output(config, exact=exact))


JOBS = (
    Job(
        "build-sample-llm",
        "llm",
        """Nothing in, a small language model of the sample's language out.

Trains for some minutes on CPUs, so that the sample needs no download.

\b
In:   nothing
Out:  <workspace>/llm: a model in the Hugging Face layout; llm.model: workspace:llm means this one

\b
Example:
  xrec build-sample-llm configs/sample.yaml
""",
    ),
    Job(
        "annotate",
        "annotations",
        """Reviews in; profiles, explanations and aspects out.

Keeps reviews with good ratings, splits them, and then writes what an item is like, what a user
likes, and why the user would enjoy the item. A run that was interrupted goes on when it is started
again.

\b
In:   source: a table of reviews (user_id, item_id, review), and perhaps one of items
Out:  <workspace>/annotations: tables items, users and pairs, report.html, manifest.json;
      xrec prepare takes it with 'source: {kind: annotations}'

\b
Example:
  xrec annotate configs/instruments.yaml min_rating=3
  xrec annotate configs/instruments.yaml limit=500
""",
        has_outlook=True,
    ),
    Job(
        "prepare",
        "dataset",
        """Raw files in, dataset out.

Held-out explanation pairs are never training edges. Rows that cannot be used are listed in
rejected.parquet with file, line and reason; above max_rejected_share the job fails.

\b
In:   source: annotations, tables of your own, the public XRec release, or the generated sample
Out:  <workspace>/dataset: users, items, interactions and explanations as Parquet, manifest.json

\b
Example:
  xrec prepare configs/yelp.yaml workspace=s3://my-bucket/yelp splits.test=0.1
""",
    ),
    Job(
        "pretrain-graph",
        "graph",
        """Dataset in, graph out: a vector for each user and item.

Trains LightGCN on Ray Train, stops early on validation NDCG@20 and keeps the best epoch.

\b
In:   <workspace>/dataset (from: xrec prepare)
Out:  <workspace>/graph: embeddings.safetensors, manifest.json with Recall@20 and NDCG@20

\b
Example:
  xrec pretrain-graph configs/yelp.yaml workers.num_processes=4 training.num_epochs=100
""",
    ),
    Job(
        "train-aspects",
        "aspects",
        """Dataset with aspects in, out: which aspects of an item to name to a user.

Trains a score of aspects on the validation's reviews. Runs in this process.

\b
In:   <workspace>/dataset with aspects (from: xrec prepare, of annotations, with aspects_from, or of
      the sample)
Out:  <workspace>/aspects: weights.json, neighbours.safetensors, manifest.json

\b
Example:
  xrec train-aspects configs/instruments.yaml min_item_reviews=2
""",
    ),
    Job(
        "train-adapter",
        "adapter",
        """Dataset, graph and language model in, adapter out.

Trains two mixture-of-experts adapters with Ray Train and DeepSpeed. The language model is frozen.

\b
In:   <workspace>/dataset, <workspace>/graph, aspects if the prompt asks for them, llm.model
Out:  <workspace>/adapter: a folder as model hubs expect it, and manifest.json with loss curves

\b
Example:
  xrec train-adapter configs/yelp.yaml training.max_steps=200 model.injection=direct
""",
    ),
    Job(
        "recommend",
        "recommendations",
        """Dataset and graph in, each user's best unseen items out.

A run that was interrupted goes on when it is started again.

\b
In:   <workspace>/dataset, <workspace>/graph (from: xrec pretrain-graph)
Out:  <workspace>/recommendations: a Delta table of user_id, item_id, rank and score

\b
Example:
  xrec recommend configs/yelp.yaml k=50 recommendations=s3://my-bucket/yelp/top-50
""",
    ),
    Job(
        "backfill",
        "explanations",
        """Pairs of users and items in, explanations out, in bulk.

A run that was interrupted goes on when it is started again. One commit at the end replaces the
rows of the table.

\b
In:   <workspace>/dataset, graph and adapter, aspects if the prompt asks for them, the language
      model, pairs
Out:  <workspace>/explanations: a Delta table of explanations and failed rows

\b
Example:
  xrec backfill configs/yelp.yaml explanations=s3://my-bucket/run-7 actors.num_processes=8
  xrec backfill configs/yelp.yaml limit=1000
  xrec backfill configs/yelp.yaml 'retry_failed=[engine_error]'
""",
        has_outlook=True,
    ),
    Job(
        "evaluate",
        "evaluation",
        """Explanations and references in, metrics and report out.

\b
In:   <workspace>/dataset, graph, adapter and explanations (from: xrec backfill), aspects if the
      prompt asks for some, the language model
Out:  <workspace>/evaluation: metrics as JSON and Parquet, report.html, manifest.json

\b
Example:
  xrec evaluate configs/yelp.yaml max_pairs=500 encoder=null
""",
    ),
    Job(
        "compare",
        "comparison",
        """Entries in one table: ours, its variants, baselines, texts from elsewhere.

Each entry is trained and writes texts once a seed, for the same held-out pairs; all are scored
alike. A run that was interrupted keeps all that is finished, and what is added is made alone.

\b
In:   <workspace>/dataset, graph, aspects if the prompt asks for some, the language model, tables of
      texts
Out:  <workspace>/comparison: table.parquet, table.md, manifest.json, and a folder for each entry
      and seed

\b
Example:
  xrec lab compare configs/instruments-compare.yaml
  xrec lab compare configs/yelp.yaml 'entries=[ours,nearest,profile]' 'seeds=[0,1,2]'
""",
    ),
    Job(
        "serve",
        None,
        """Explanations, adapter and language model in, an HTTP endpoint out.

The explanations of a backfill answer first, and the model writes what they do not hold. What xrec
refresh or a rollback publishes is taken without a break; on SIGHUP the project file is read again.

\b
In:   <workspace>/dataset, graph and adapter, aspects if the prompt asks for some, the language
      model; <workspace>/explanations if there
Out:  http://127.0.0.1:8000 with a page at / and the API's description at /openapi.json

\b
Example:
  xrec serve configs/yelp.yaml http.port=9000 explanations=s3://my-bucket/run-7
  xrec serve configs/yelp.yaml --write-deployment serve.yaml   # for serve deploy, or a RayService
""",
    ),
)
"""All jobs, in the order of the pipeline."""

COMPARE, SERVE = JOBS[-2:]
"""The jobs that are no part of a run of the pipeline."""


PIPELINE = tuple(job.name for job in JOBS if job not in (COMPARE, SERVE))
"""The jobs that `xrec run` goes through; the others are run by their own commands only."""


def chosen_configs(
    project: "Project", first: str | None = None, last: str | None = None
) -> "dict[str, JobConfig]":
    """The configs of the project's jobs from `first` to `last`, in order.

    Raises ConfigError for a mistake in the file, for a job that is not in it, and for a job with a
    limit, after which it is not finished.
    """
    jobs = [job for job in project.jobs if job in PIPELINE]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in jobs:
            raise ConfigError(
                f"{option} {name}: expected a job of the run, which has a section in "
                f"{project.source}: {', '.join(jobs) or 'none'}",
                code="unknown_job",
                key=option,
                saw=name,
            )
    start = jobs.index(first) if first is not None else 0
    end = jobs.index(last) + 1 if last is not None else len(jobs)
    if not jobs[start:end]:
        raise ConfigError(
            f"{project.source}: no job to run"
            + (f" from {first} until {last}" if jobs else "; add sections, for example 'prepare:'"),
            code="no_job",
        )
    configs = project.configs(jobs[start:end])
    for name, config in configs.items():
        if (limit := getattr(config, "limit", None)) is not None:
            raise ConfigError(
                f"{name}.limit = {limit}: a run of all jobs finishes each of them; take the limit "
                f"out, and give it to xrec {name}",
                code="limit_in_run",
                key=f"{name}.limit",
                saw=limit,
            )
    return configs


def job_named(name: str) -> Job:
    """The job `name`; raises ConfigError naming the known ones."""
    named = {job.name: job for job in JOBS}
    if name not in named:
        raise ConfigError(
            f"no job is named {name!r}; known jobs: {', '.join(named)}",
            code="unknown_job",
            saw=name,
        )
    return named[name]
