"""The gate: figures of bad candidates, what it stops, and publishing by force."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pytest
import torch

from tests.errors import raises
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.program import xrec
from tests.world.shop import write_project
from tests.world.town import dataset_of
from tests.xrec.backfill.runs import OTHER_DECODING, never, pairs_of, published_rows
from xrec.backfill.driver import finish
from xrec.bulk import published, rollback, vacuum
from xrec.config import GATE
from xrec.data import Dataset
from xrec.errors import BudgetError, ConfigError, GateError
from xrec.graph.artifact import GraphEmbeddings
from xrec.nights import GateFigure, make_gate
from xrec.nights.figures import Rows, drift, own_profiles, own_vectors, text_shares

ASPECTS = (
    *("quiet garden", "late hours", "fresh pastries", "river view", "fair prices", "warm staff"),
)
OPENINGS = ("You would enjoy it for the", "Here you will find a", "People like you love its")
USERS, ITEMS = range(40), range(20)


def texts_of(
    seed: int,
    *,
    vector_of: Callable[[int], int] = int,
    profile_of: Callable[[int], int] = int,
) -> Rows:
    """Return what a good model writes: two aspects of the item, the user's favorite first.

    vector_of: the user whose vector a user has. profile_of: the item whose aspects an item has.
    """
    draw, rows = random.Random(seed), {}
    for user in USERS:
        for item in ITEMS:
            taste, profile = random.Random(vector_of(user)), random.Random(100 + profile_of(item))
            menu = profile.sample(ASPECTS, 3)
            chosen = sorted(menu, key=lambda each, taste=taste: taste.random())[:2]
            text = f"{draw.choice(OPENINGS)} {chosen[0]} of Place {item}, and its {chosen[1]}."
            aspects = [{"aspect": each, "is_named": True} for each in chosen]
            rows[f"u{user}", f"i{item}"] = row_of(text, aspects)
    return rows


def row_of(text: str, aspects: list[dict[str, object]], **more: str) -> dict[str, object]:
    return {"explanation": text, "aspects": aspects, "kind": "written", "refused": "", **more}


def half(item: int, num_items: int = 20) -> int:
    """Give every other item the profile of another one."""
    return (item + 7) % num_items if item % 2 else item


def changed(rows: Rows, text: Callable[[str], str], **more: str) -> Rows:
    unnamed = {
        pair: [
            {**each, "is_named": each["aspect"] in text(row["explanation"])}
            for each in row["aspects"]
        ]
        for pair, row in rows.items()
    }
    return {p: row_of(text(row["explanation"]), unnamed[p], **more) for p, row in rows.items()}


def carried(new: Rows, old: Rows, is_kept: Callable[[int], object]) -> Rows:
    """Return the candidate with the pairs of some items carried over."""
    return {p: old[p] if is_kept(int(p[1][1:])) else row for p, row in new.items()}


def stopped_by(new: Rows, old: Rows, is_alike: bool) -> set[str]:
    values = {**text_shares(new), **drift(new, old, is_alike=is_alike)}
    figures = [GateFigure(name, value, GATE[name]) for name, value in values.items()]
    return {figure.name for figure in figures if not figure.passes}


OLD = texts_of(0)
GOOD = texts_of(1)  # another adapter, which says the same in other words
SHUFFLED = texts_of(1, vector_of=lambda user: (user + 11) % 40)
CUT = {"length", "named", "own_item", "distinct"}


@pytest.mark.parametrize(
    ("what", "new", "is_alike", "stops"),
    [
        ("good, by another adapter", GOOD, False, set()),
        (
            "good, half of it carried",
            carried(GOOD, OLD, lambda item: item % 2),
            True,
            {"rewritten"},
        ),
        ("good, most of it carried", carried(GOOD, OLD, lambda item: item % 4), True, set()),
        ("a broken prompt", changed(GOOD, lambda _: "I am a model."), False, {"commonest", *CUT}),
        ("empty", changed(GOOD, lambda _: ""), False, {"commonest", *CUT}),
        ("cut", changed(GOOD, lambda text: text[:12]), False, CUT),
        (
            "no model",
            changed(GOOD, str, kind="plain", refused="unsupported"),
            False,
            {"plain", "refused", "unsupported"},
        ),
        ("half of the profiles swapped", texts_of(0, profile_of=half), True, {"rewritten"}),
        ("all of them", texts_of(1, profile_of=lambda item: (item + 7) % 20), False, {"own_item"}),
        ("shuffled vectors", SHUFFLED, True, {"rewritten"}),
        ("shuffled vectors, by another adapter", SHUFFLED, False, set()),  # see below
    ],
)
def test_gate_by_default_stops_what_its_figures_see(what, new, is_alike, stops):
    assert stopped_by(new, OLD, is_alike) == stops
    drifts = {"length", "distinct", "own_item", "rewritten"}
    assert stopped_by(new, {}, is_alike) == stops - drifts  # the first version


def test_gate_has_no_figures_of_few_rows_and_no_bound_for_own_user():
    """own_user: the share of texts nearer to their user's published text than to another's."""
    few = dict(list(changed(GOOD, lambda _: "").items())[:49])
    assert {*text_shares(few).values(), *drift(few, OLD, is_alike=False).values()} == {None}
    assert GATE["own_user"] is None
    good, shuffled = (drift(new, OLD, is_alike=False)["own_user"] for new in (GOOD, SHUFFLED))
    assert good > 0.7 > 0.55 > shuffled


def town(profile_of: Callable[[int], int] = int, more: str = "") -> Dataset:
    """Users of four tastes visit items of theirs, and all of them the first item."""
    visits = {(n, item) for n in range(80) for item in range(60) if (n - item) % 4 == 0 or not item}
    words = [random.Random(n).sample(ASPECTS, 2) for n in range(60)]
    made = dataset_of(
        80,
        60,
        profiles=[f"It has {words[n]} in street {n}.{more}" for n in map(profile_of, range(60))],
        interactions=[(*pair, "train") for pair in sorted(visits)],
    )
    order = sorted(range(60), key=lambda n: f"i{n}")
    return replace(made, item_order=pa.table({"item_index": order}))


def graph(of_user: Callable[[int], int] = int, of_item: Callable[[int], int] = int) -> Any:
    """Return vectors of a taste and some noise. The first item is the nearest to all users."""
    noise = torch.Generator().manual_seed(0)
    users, items = (
        torch.eye(4)[torch.arange(count) % 4] + 0.3 * torch.randn(count, 4, generator=noise)
        for count in (80, 60)
    )
    items[0] += 1
    places = [list(map(of, range(count))) for of, count in ((of_user, 80), (of_item, 60))]
    return GraphEmbeddings(users[places[0]], items[places[1]], Mock())


@pytest.mark.parametrize(
    ("figure", "value", "stops"),
    [
        ("own_vector", lambda: own_vectors(town(), graph()), False),
        ("own_vector", lambda: own_vectors(town(), graph(lambda n: (n * 7 + 3) % 80)), True),
        ("own_vector", lambda: own_vectors(town(), graph(int, lambda n: n * 3 // 2 % 60)), True),
        ("own_profile", lambda: own_profiles(town(), town()), False),
        ("own_profile", lambda: own_profiles(town(more=" New: a cellar."), town()), False),
        ("own_profile", lambda: own_profiles(town(lambda n: half(n, 60)), town()), True),
        ("own_profile", lambda: own_profiles(town(lambda n: (n + 7) % 60), town()), True),
    ],
)
def test_gate_by_default_stops_inputs_that_were_swapped(figure, value, stops):
    assert (value() < GATE[figure]) == stops


def shop(num_users: int, per_user: int, num_items: int, offset: int = 0) -> tuple[str, ...]:
    """Pairs of users and of items that follow one another."""
    return tuple(
        f"u{user} i{(user * per_user + place + offset) % num_items}"
        for user in range(num_users)
        for place in range(per_user)
    )


@pytest.mark.usefixtures("actors_here")
def test_gate_by_default_stops_a_night_that_lost_part_of_the_shop(runs):
    """The small dataset knows few of these users, so most pairs fail, which is not judged here."""
    small = {"gate": {"coverage": None}, "rows_per_chunk": 1024}
    runs.run(*shop(200, 20, 100), **small)
    for tonight, stops in (
        (shop(200, 1, 3), {"rows", "items", "pairs"}),  # each gets one of three bestsellers
        (shop(200, 1, 100)[:40], {"rows", "users", "items", "pairs"}),  # 1 % of the rows
        (shop(80, 20, 25), {"rows", "users", "items", "pairs"}),
    ):
        with raises(GateError, "gate_not_passed", "gate") as raised:
            runs.run(*tonight, **small)
        assert set(raised.value.saw) == stops
    assert runs.run(*shop(200, 20, 100)[200:], **small).version == 1


def test_bound_is_tightened_by_the_last_nights_and_never_loosened():
    figure = GateFigure("rows", 0.85, 0.7)
    assert figure.beside([1.0] * 13).passes  # too few nights
    assert not figure.beside([1.0] * 14).passes
    assert figure.beside([1.0, 0.8] * 7).passes  # their median differs from them by as much
    assert GateFigure("rows", 0.6, 0.7).beside([0.2] * 14).bound == 0.7
    assert not GateFigure("frequent", 0.1, 0.5).beside([0.01] * 14).passes
    assert not GateFigure("recall", float("nan"), 0.7).passes
    assert GateFigure("recall", 0.1, None).beside([1.0] * 14).passes


TOKENS = ("prompt_tokens", "reply_tokens", "num_prompt_tokens", "num_generated_tokens")
PAIRS = tuple(f"u{user} i{item}" for user in range(12) for item in range(5))


@pytest.mark.usefixtures("actors_here")
def test_candidate_that_does_not_pass_stays_until_it_is_published_by_force(runs, tmp_path):
    assert runs.run(*PAIRS, gate={}).metrics["gate"]["passed"]
    before, uri = published_rows(runs.output), runs.output.uri
    bad = {"carry_from": None, "decoding": OTHER_DECODING, "gate": {"commonest": 0.2}}
    config = runs.config(*PAIRS, **bad)
    path = write_project(tmp_path / "project.yaml", config)
    code, _, err = xrec("publish", path)
    assert (code, "no finished run with these settings and pairs" in err) == (1, True)
    for toy in (runs.toy(mute=PAIRS[:30]), never):  # a second start does nothing again
        with raises(GateError, "gate_not_passed", "gate") as raised:
            runs.run(*PAIRS, toy=toy, **bad)
        assert "coverage" in raised.value.saw
    code, _, err = xrec("publish", path)
    assert (code, "NO coverage" in err) == (3, True)
    code, out, err = xrec("publish", path, "--look")
    assert (code, out.count("no longer has a text")) == (0, 30), err
    assert published_rows(runs.output) == before
    folder = runs.plan(*PAIRS, **bad).folder
    (name,) = (name for name in folder.sizes() if name.startswith("gate-"))
    assert '"beside_version": 0' in (folder / name).read_text()
    assert xrec("publish", path, "--force", "read it")[0] == 0
    verdict = published(uri).manifest.metrics["gate"]
    assert (verdict["passed"], verdict["forced"]) == (False, "read it")
    assert pairs_of(published_rows(runs.output)) == sorted(PAIRS[30:])
    code, out, _ = xrec("table", "history", uri)
    assert (code, out.count("passed"), "forced: read it" in out.splitlines()[1]) == (0, 2, True)
    assert "30 of 60 pairs differ" in xrec("table", "diff", uri, "0", "1")[1]
    rollback(uri, 0)
    assert published(uri).manifest.metrics["gate"]["passed"]
    run = runs.plan(*PAIRS, **bad)
    assert finish(config, run, make_gate(config, run, "again")).version == 3
    assert runs.run(*PAIRS, toy=never, **{**bad, "gate": None}).version == 3
    vacuum(uri, timedelta(0))
    code, _, err = xrec("table", "diff", uri, "3", "0")
    assert (code, "version 0 cannot be read because its file part-" in err) == (1, True), err


@pytest.mark.usefixtures("actors_here")
def test_texts_of_a_refused_run_are_carried_unless_they_were_refused_themselves(runs):
    for num_left_out, figure, num_written in ((0, "commonest", 60), (1, "frequent", 59)):
        with raises(GateError, "gate_not_passed", "gate", (figure,)):
            runs.run(*PAIRS[num_left_out:], gate={figure: 0.0})
        assert len(runs.calls()) == num_written
    assert runs.run(*PAIRS[2:]).metrics["num_carried"] == 58


@pytest.mark.usefixtures("actors_here")
def test_claims_of_texts_are_judged_within_the_budget_and_paid_for_once(runs):
    """The judge quotes the item's profile for one claim, and what nobody wrote for another."""

    def behave(asked: Asked) -> Answer:
        if asked.body["model"] == "bad":
            return Answer("no")
        quotes = (json.loads(asked.words)["evidence"][1], "what nobody wrote")
        claims = [{"claim": "it", "verdict": "supported", "quote": quote} for quote in quotes]
        return Answer(json.dumps({"claims": claims}))

    with stub_endpoint(behave) as stub:

        def run(model: str = "good", **more: Any) -> Any:
            judge = {"base_url": stub.url, "model": model, "api_key_variable": None}
            return runs.run(*PAIRS, judge={"kind": "endpoint", **judge}, **more)

        with raises(GateError, "gate_not_passed", "gate", ("claims",)) as stopped:
            run("bad", gate={"claims": 0.0})  # the figure could not be computed
        assert stopped.value.metrics["gate"]["figures"]["claims"] is None
        stub.asked.clear()
        left = sum(stopped.value.metrics["costs"][name] for name in TOKENS) - 60 * 2 * 18 + 2000
        with raises(BudgetError, "budget_used_up", "budget.tokens") as over:
            run(budget={"tokens": left}, gate={})
        assert over.value.metrics["costs"]["reply_tokens"] == len(stub.asked) * 7
        with raises(GateError, "gate_not_passed", "gate", ("claims",)) as stopped:
            run(gate={"claims": 0.6})
        made = run(gate={"claims": 0.5})
        assert made.metrics["gate"]["figures"]["claims"] == 0.5
        for metrics in (stopped.value.metrics, made.metrics):
            assert [metrics["costs"][name] for name in TOKENS[:2]] == [60 * 11, 60 * 7]
        assert len(stub.asked) == 60


def test_gate_of_unknown_figures_or_bounds_is_refused(runs):
    for gate, key in (({"failed": 0.1}, "gate"), ({"plain": float("nan")}, "gate.plain")):
        with pytest.raises(ConfigError) as raised:
            runs.config(gate=gate)
        assert raised.value.key == key
    named = {"plain": 0.1, "coverage": None}
    assert runs.config(gate=named).gate == {**GATE, **named}
