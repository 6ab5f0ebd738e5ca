"""A comparison from beginning to end: pairs, texts, scores, table; then what people are asked."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pydantic import SecretStr

from xrec.config.comparison import ComparisonConfig
from xrec.data.dataset import read_dataset
from xrec.data.drawn import drawn_pairs
from xrec.errors import ArtifactNotFoundError
from xrec.lab.compare.artifact import SCORES, write_comparison
from xrec.lab.compare.computed import as_recorded
from xrec.lab.compare.entries import Entry, entries_of
from xrec.lab.compare.judges import judges_page, judges_table, published_judges
from xrec.lab.compare.likelihoods import WeighAll, weigh_entries, weigh_on_ray, with_likelihoods
from xrec.lab.compare.made import Made
from xrec.lab.compare.make import Given, elsewhere_texts, make
from xrec.lab.compare.pairs import compared_pairs, write_pairs
from xrec.lab.compare.people import ask_people
from xrec.lab.compare.report import examples_of, render_report
from xrec.lab.compare.result import Result, result_of
from xrec.lab.compare.score import ScoreAll, Scored, score_entries, score_on_ray
from xrec.lab.compare.shared_costs import shared_costs
from xrec.storage import Manifest, location_of, read_manifest, run_fingerprint

logger = logging.getLogger("xrec")

Make = Callable[[Given, Entry], Made]


def compare(
    config: ComparisonConfig,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    keys: Mapping[str, SecretStr | None] | None = None,
    make_texts: Make = make,
    score_all: ScoreAll = score_on_ray,
    weigh_all: WeighAll = weigh_on_ray,
) -> Manifest:
    """Make, score and compare what is not done yet; returns the comparison's manifest.

    settings, inputs: what `comparison_identity` returns, with what `auto` became.
    keys: of judges that are endpoints.

    Ray must be initialised if anything is to be trained, written by a language model, or scored.
    Raises what trainings, bulk runs and scoring raise; what is done stays, and the next call goes
    on from there.
    """
    config = as_recorded(config, settings)
    dataset = read_dataset(location_of(config, "dataset"))
    pairs = compared_pairs(config, dataset)
    given = Given(config, dataset, write_pairs(location_of(config, config.makes), pairs))
    entries = [entry for of_contestant in entries_of(config).values() for entry in of_contestant]
    # Tables from elsewhere may be wrong, so they are read before anything is trained.
    there = {
        entry: elsewhere_texts(given, entry)
        for entry in entries
        if entry.contestant in config.texts
    }
    published = published_judges(config)
    made = {
        entry: there[entry] if entry in there else make_texts(given, entry) for entry in entries
    }
    scored = score_entries(config, given.pairs, made, keys or {}, score_all)
    weighed = weigh_entries(config, given.pairs, entries, settings.get("computation"), weigh_all)
    manifest = _finished(config, settings, inputs, scored)
    if manifest is None:
        measured = {
            entry: replace(each, table=with_likelihoods(each.table, weighed.get(entry)))
            for entry, each in scored.items()
        }
        result = result_of(config, dataset, pairs, made, measured, shared_costs(config))
        manifest = _write(
            given, result, made, scored, _judges(config, scored, published), settings, inputs
        )
    ask_people(given, _first_seeds(made), _first_seeds(scored), manifest)
    return manifest


def _finished(
    config: ComparisonConfig,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    scored: Mapping[Entry, Scored],
) -> Manifest | None:
    """The manifest of this very comparison, of these scores; None if there is none, or another's.

    Another one's table is written again: all that cost anything is in the entries' folders, and
    these refuse what does not fit.
    """
    try:
        manifest = read_manifest(location_of(config, config.makes), config.makes)
    except ArtifactNotFoundError:
        return None
    is_same = manifest.run == run_fingerprint(config.makes, settings, inputs)
    return manifest if is_same and manifest.metrics.get(SCORES) == _fingerprints(scored) else None


def _fingerprints(scored: Mapping[Entry, Scored]) -> dict[str, str]:
    return {entry.name: each.fingerprint for entry, each in scored.items()}


def _write(
    given: Given,
    result: Result,
    made: Mapping[Entry, Made],
    scored: Mapping[Entry, Scored],
    judges: tuple[pa.Table, str] | None,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    config, pairs = given.config, given.pairs.pairs
    num_users = len({pair.user_id for pair in pairs})
    shown = drawn_pairs(pairs, config.num_examples, seed=config.pairs_seed)
    titles = given.dataset.items["title"].combine_chunks()
    texts = {name: each.texts for name, each in _first_seeds(made).items()}
    report = render_report(
        result,
        examples_of(shown, [titles[pair.item_index].as_py() for pair in shown], texts),
        num_pairs=len(pairs),
        num_users=num_users,
        failed=_failed(made),
        config=settings,
    )
    manifest = write_comparison(
        location_of(config, config.makes),
        config.makes,
        result,
        report,
        judges=judges,
        num_pairs=len(pairs),
        num_users=num_users,
        scores=_fingerprints(scored),
        config=settings,
        inputs=inputs,
    )
    logger.info("%d contestants: %s", len(result.contestants), config.artifact(config.makes))
    return manifest


def _judges(
    config: ComparisonConfig, scored: Mapping[Entry, Scored], published: Mapping[str, pa.Table]
) -> tuple[pa.Table, str] | None:
    """What is said of the judges, if there are any."""
    if not config.metrics.judges:
        return None
    agreements = judges_table(config, scored, published)
    return agreements, judges_page(config, scored, agreements)


def _failed(made: Mapping[Entry, Made]) -> dict[str, dict[str, int]]:
    """Of each contestant, the pairs without a text by reason, over all of its seeds."""
    found: dict[str, dict[str, int]] = {}
    for entry, each in made.items():
        for reason, count in each.failed.items():
            reasons = found.setdefault(entry.contestant, {})
            reasons[reason] = reasons.get(reason, 0) + count
    return found


def _first_seeds(by_entry: Mapping[Entry, Any]) -> dict[str, Any]:
    """What belongs to the first seed of each contestant."""
    found: dict[str, Any] = {}
    for entry, value in by_entry.items():
        found.setdefault(entry.contestant, value)
    return found
