"""Neighbors, scores and reasons, compared with their definitions over dense matrices."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from xrec.data import EVIDENCE_KINDS
from xrec.graph.fold_in import FoldIn
from xrec.graph.index import ItemIndex
from xrec.graph.ranking import SeenItems, top_k_items
from xrec.neighbors.artifact import NeighborTable
from xrec.neighbors.build import Neighbors, build, pair_matrix
from xrec.neighbors.reasons import ABSTAINED, CATEGORY, HISTORY, OTHERS, POPULAR, Reasons
from xrec.neighbors.scores import NeighborScores, fit
from xrec.neighbors.steps import lower_bounds

NUM_USERS, NUM_ITEMS = 120, 50
CATEGORIES = np.array(["", "teas", "beers", "cakes"], object)[np.arange(NUM_ITEMS) % 4]
LEAST = 5


@pytest.fixture(scope="module")
def choices():
    """Return who chose what, (U, I) bool: one user chose everything, and one item has no user."""
    rng = np.random.default_rng(3)
    popularity = rng.random(NUM_ITEMS) ** 2
    choices = rng.random((NUM_USERS, NUM_ITEMS)) < 0.4 * popularity
    choices[0] = True
    choices[:, 7] = False
    return choices


@pytest.fixture(scope="module")
def found(choices):
    return build(edges_of(choices), NUM_USERS, NUM_ITEMS)


@pytest.fixture(scope="module")
def seen(choices):
    return SeenItems(torch.from_numpy(edges_of(choices)))


@pytest.fixture(scope="module")
def vectors():
    """Return vectors of users (U, D) and items (I, D)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, generator=generator) for n in (NUM_USERS, NUM_ITEMS)]


def edges_of(choices: np.ndarray) -> np.ndarray:
    return np.stack(np.nonzero(choices))


def sources_of(found: Neighbors) -> np.ndarray:
    return np.repeat(np.arange(NUM_ITEMS), np.diff(found.starts))


def weights_of(found: Neighbors) -> sp.csr_array:
    return pair_matrix(found.starts, found.targets, found.weights)


@pytest.mark.parametrize("most_items", [1000, 20])
def test_weights_and_numbers_equal_those_of_dense_matrices(choices, most_items):
    limits = {"most_neighbors": 10, "most_items": most_items}
    found = build(edges_of(choices), NUM_USERS, NUM_ITEMS, powers=(0.5, 0.5), **limits)
    both = choices.T.astype(int) @ choices.astype(int)
    sources = sources_of(found)
    assert (found.num_people == both[sources, found.targets]).all()  # of heavy users, too
    assert (sources != found.targets).all()
    assert np.bincount(found.targets, minlength=NUM_ITEMS).max() == 10
    if most_items == 1000:
        chosen = np.maximum(choices.sum(0), 1)
        of_users = choices.T / np.maximum(choices.sum(1), 1)
        weights = of_users @ choices / np.sqrt(np.outer(chosen, chosen))
        np.fill_diagonal(weights, 0)
        assert found.weights == pytest.approx(weights[sources, found.targets], rel=1e-5)
        for item in range(NUM_ITEMS):
            kept = np.sort(found.weights[found.targets == item])[::-1]
            assert kept == pytest.approx(np.sort(weights[:, item])[::-1][: len(kept)], rel=1e-5)


def test_blocks_change_nothing(choices, monkeypatch):
    whole = build(edges_of(choices), NUM_USERS, NUM_ITEMS, most_neighbors=10)
    monkeypatch.setattr("xrec.neighbors.build.PRODUCTS_PER_BLOCK", 100)
    cut = build(edges_of(choices), NUM_USERS, NUM_ITEMS, most_neighbors=10)
    for name in ("starts", "targets", "num_people"):
        assert (getattr(whole, name) == getattr(cut, name)).all()


@given(numbers=st.lists(st.integers(0, 10**7)), least=st.integers(3, 300))
def test_lower_bounds_hold_and_hide_small_groups(numbers, least):
    bounds = lower_bounds(numbers, least)
    for number, bound in zip(numbers, bounds.tolist(), strict=True):
        assert bound <= number
        assert bound == 0 if number < least else bound >= least
        assert bound == least or str(bound).rstrip("0") in ("", "1", "2", "5")


def test_scores_of_a_user_do_not_copy_the_weights_of_all_items():
    num_items, num_pairs = 1000, 10**6
    starts = np.linspace(0, num_pairs, num_items + 1).astype(np.int64)
    targets = np.tile(np.arange(num_items, dtype=np.int32), num_pairs // num_items)
    seen = SeenItems(torch.tensor([[0, 0], [3, 5]]))
    tracemalloc.start()
    matrix = pair_matrix(starts, targets, np.ones(num_pairs, np.float32))
    _, before = tracemalloc.get_traced_memory()
    *_, sums = NeighborScores(matrix, seen).of(torch.tensor([0]))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sums.tolist() == [2.0] * num_items
    assert np.shares_memory(matrix.indices, targets)
    assert most - before < targets.nbytes / 2


def test_ranking_adds_the_neighbors_part(choices, found, seen, vectors):
    scores, (users, items) = NeighborScores(weights_of(found), seen), vectors
    both = (users @ items.T).numpy() + choices @ weights_of(found).toarray()
    both[choices] = -np.inf
    wanted = np.argsort(-both, axis=1)[:, :5]
    ranked = top_k_items(users, items, seen, torch.arange(1, NUM_USERS), 5, more=scores.of)
    best = torch.cat([items for _, items, _ in ranked])
    assert (best.numpy() == wanted[1:]).all()


@pytest.mark.parametrize("k", [3, 43])
def test_index_finds_what_neighbors_add(found, seen, vectors, tmp_path, monkeypatch, k):
    """The items with the largest sums are candidates, though their vectors are far away.

    With the larger k, the index is too small for some users, who are ranked exactly.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scores, (users, items) = NeighborScores(1000 * weights_of(found), seen), vectors
    given = (users, items, seen, torch.arange(1, NUM_USERS), k)
    index = ItemIndex("items", items, np.empty(0, np.int64), num_links=4, num_search=5)
    ((_, *found_by_index),) = index.top_k(*given, more=scores.of)
    exact = top_k_items(*given, more=scores.of)
    best, values = (torch.cat(parts) for parts in list(zip(*exact, strict=True))[1:])
    assert torch.equal(found_by_index[0], best)
    torch.testing.assert_close(found_by_index[1], values)


def test_fit_orders_weights_by_their_recall_of_held_out_pairs(choices, vectors):
    rng = np.random.default_rng(0)
    is_held_out = choices & (rng.random(choices.shape) < 0.2)
    trained = choices & ~is_held_out
    found = build(edges_of(trained), NUM_USERS, NUM_ITEMS)
    seen = SeenItems(torch.from_numpy(edges_of(trained)))
    scores, (users, items) = NeighborScores(weights_of(found), seen), vectors
    num_people, held_out = torch.from_numpy(trained.sum(0)), torch.from_numpy(edges_of(is_held_out))
    tried = fit(users, items, scores, num_people, seen, held_out, k=5)
    recalls = [each.recall for each in tried]
    assert recalls == sorted(recalls, reverse=True)
    (alone,) = [each.recall for each in tried if each.weight == 0]
    assert recalls[0] > alone  # random vectors say nothing
    for each in tried:
        powers = np.maximum(num_people.numpy(), 1) ** (0.5 - each.power)
        both = (users @ items.T).numpy() + trained @ (
            each.weight * weights_of(found).toarray() * powers
        )
        both[trained] = -np.inf
        top = np.argsort(-both, axis=1)[:, :5]
        rows = [
            np.isin(np.flatnonzero(wanted), best).mean()
            for wanted, best in zip(is_held_out, top, strict=True)
            if wanted.any()
        ]
        assert each.recall == pytest.approx(np.mean(rows), abs=1e-6)


@pytest.fixture(scope="module")
def reasons(choices, found, seen, vectors):
    arrays = {
        "starts": found.starts,
        "targets": found.targets,
        "weights": found.weights,
        "bounds": lower_bounds(found.num_people, LEAST),
        "item_bounds": lower_bounds(choices.sum(0), LEAST),
    }
    table = NeighborTable(arrays, 3.0, None)  # type: ignore[arg-type]  # no manifest needed
    fold_in = FoldIn.of(*vectors, seen.edges)
    return Reasons(table, seen, fold_in, np.zeros(NUM_ITEMS, bool), CATEGORIES)


@pytest.fixture(scope="module")
def pairs(choices):
    """Return all pairs of users and items that they did not choose."""
    return np.nonzero(~choices)


def test_contributions_add_up_to_the_score(choices, reasons):
    users, items = np.array([3, 3, 5]), np.array([11, 12, 11])
    pairs, history, shares = reasons.contributions(users, items)
    for pair, (user, item) in enumerate(zip(users, items, strict=True)):
        own = np.flatnonzero(choices[user])
        assert history[pairs == pair].tolist() == own.tolist()
        vector = reasons.fold_in.vector(torch.from_numpy(own))
        weighted = reasons.table.weighted(own, np.full(len(own), item))
        score = float(vector @ reasons.fold_in.items[item]) + weighted.sum()
        assert shares[pairs == pair].sum() == pytest.approx(score, rel=1e-4)


def test_each_reason_is_true_and_the_largest(choices, reasons, pairs):
    both = choices.T.astype(int) @ choices.astype(int)
    users, items = pairs
    places, history, shares = reasons.contributions(users, items)
    found = reasons.of(users, items)
    assert {*found.kinds.tolist()} >= {OTHERS, HISTORY, CATEGORY, POPULAR}
    for place in range(0, len(items), 4):
        kind, own, item = found.kinds[place], places == place, items[place]
        support, at_least = int(found.items[place]), int(found.at_least[place])
        num_people = int(choices[:, item].sum())
        alike = (CATEGORIES[history] == CATEGORIES[item]) & (shares > 0) & own
        positive = shares[own].clip(0).sum()
        is_alike = CATEGORIES[item] and alike.sum() >= 2 and shares[alike].sum() >= positive / 2
        if kind in (CATEGORY, POPULAR, ABSTAINED):
            assert (kind == CATEGORY) == bool(is_alike)
        if kind == CATEGORY:
            assert (support, at_least) == (-1, 0)
            continue
        if kind in (POPULAR, ABSTAINED):
            assert support == -1
            assert LEAST <= at_least <= num_people if kind == POPULAR else num_people < LEAST
            continue
        assert choices[users[place], support]
        share = shares[own][history[own] == support][0]
        assert share >= shares[own].max() * (0.5 if kind == OTHERS else 1)
        if kind == OTHERS:
            assert LEAST <= at_least <= both[support, item]
        else:
            assert at_least == 0
            assert share >= 1.5 * np.sort(np.append(shares[own], 0))[-2]


def test_slices_change_nothing(reasons, pairs, monkeypatch):
    whole = reasons.of(*pairs)
    monkeypatch.setattr("xrec.neighbors.reasons.PARTS_AT_ONCE", 100)
    cut = reasons.of(*pairs)
    for name in ("kinds", "items", "at_least"):
        assert (getattr(whole, name) == getattr(cut, name)).all()


def test_the_last_shown_item_stays_and_excluded_ones_never_support(reasons, pairs):
    users, items = pairs
    first = reasons.of(users, items)
    places, history, shares = reasons.contributions(users, items)
    bounds = reasons.table.bounds(history, items[places])
    # Another item that qualifies, for some pair that has two.
    largest = np.array([shares[places == place].max(initial=0) for place in range(len(items))])
    can = (bounds > 0) & (shares >= 0.5 * largest[places]) & (history != first.items[places])
    other = int(np.flatnonzero(can)[0])
    before = np.full(len(items), -1)
    before[places[other]] = history[other]
    kept = reasons.of(users, items, before)
    assert kept.items[places[other]] == history[other]
    assert kept.at_least[places[other]] == bounds[other]
    assert (np.delete(kept.items, places[other]) == np.delete(first.items, places[other])).all()
    excluded = np.zeros(NUM_ITEMS, bool)
    excluded[history[other]] = True
    rest = replace(reasons, excluded=excluded)
    assert history[other] not in rest.of(users, items, before).items


def test_empty_history_gets_the_number_who_chose_the_item(reasons):
    most = int(reasons.table.item_bounds.argmax())
    nothing = SeenItems(torch.empty(2, 0, dtype=torch.int64))
    nobody = replace(reasons, history=nothing, fold_in=None)
    found = nobody.of(np.array([4, 4]), np.array([most, 7]))
    assert [EVIDENCE_KINDS[kind] for kind in found.kinds] == ["popular", "abstained"]
    assert found.at_least.tolist() == [reasons.table.item_bounds[most], 0]
    assert found.items.tolist() == [-1, -1]
