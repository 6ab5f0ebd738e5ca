"""The protocol of bulk runs in random interleavings: it holds, and breaks without a rule.

A failure prints the shortest interleaving that was found, a line for each actor's turn.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest

from tests.xrec.bulk.model.play import Counts, play
from tests.xrec.bulk.model.protocol import RULES

# Each rule, and a seed that shows what happens without it; a rule that others back up has one of
# them beside it. After a change of the model, find seeds anew, here and for deletions by hand, with
# play(range(9999), raw=..., rules_off=[rule], to_first=True).num_played - 1.
SEEDS = """
create_only 66, second_name 373, command_base 1, whole_history 26, audit 75, refuse_newer 1,
refuse_withdrawn 158, list_after_opening 119, next_version_only 13, back_to_opening 12,
takedown_listed 64, takedown_commits 33, takedown_creates 33, takedown_checks 725,
rollback_filters 102, undo_filters 2158, empty_commits 13, clean_named 1, pass_key 152,
carry_sound 3600, count_rows 11, restore_sound 133, restore_decides 133, restore_filtered 2158,
failed_read 9, empty_pointer 145, pass_or_later never_lower 18"""
SEEDS_BY_HAND = """
next_record 29, base_table 42, audit_files 151, meant_table 8098, undo_marks 151,
never_lower 5957"""
CASES = [
    pytest.param(rules, int(seed), raw, id=" ".join(rules))
    for seeds, raw in ((SEEDS, False), (SEEDS_BY_HAND, True))
    for *rules, seed in map(str.split, seeds.split(","))
]


def check(results: Iterable[Counts]) -> Counter[str]:
    """Return how often which window was seen; there must be no violation."""
    windows: Counter[str] = Counter()
    for counts in results:
        assert not counts.violations, "\n".join(counts.shortest)
        windows += counts.windows
    return windows


@pytest.mark.parametrize("raw", [False, True])
def test_protocol_with_all_rules_has_documented_windows_only(raw):
    windows = check([play(range(2000), raw=raw)])
    assert ("damaged log" in windows) == raw


@pytest.mark.parametrize(("rules", "seed", "raw"), CASES)
def test_protocol_without_a_rule_is_violated(rules, seed, raw):
    assert play([seed], raw=raw, rules_off=rules).violations
    check([play([seed], raw=raw)])


def test_protocol_rules_are_all_tried():
    assert {rule for case in CASES for rule in case.values[0]} == RULES.keys()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_protocol_in_a_million_interleavings_has_documented_windows_only():
    slices = [range(start, start + 10_000) for start in range(0, 500_000, 10_000)]
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        for raw in (False, True):
            print(raw, check(processes.map(partial(play, raw=raw), slices)))  # noqa: T201
