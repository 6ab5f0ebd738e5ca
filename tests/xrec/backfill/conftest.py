"""A small catalog with a random graph, adapter and language model, for backfills."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.world.models import save_toy_model
from tests.world.town import make_dataset, pair_rows
from tests.world.workspace import make_adapter, save_random_graph
from tests.xrec.backfill.runs import Runs
from xrec.adapter.pairs import PairPrompts
from xrec.errors import Failure
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer
from xrec.generate.shared_engine import Again, Requests
from xrec.llm.source import model_fingerprint
from xrec.text.writers import load_explainer

NUM_USERS, NUM_ITEMS = 12, 6


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A dataset, graph, adapter and language model on the local disk, which tests must not change.

    The profile of the item `wordy` is too long for a prompt.
    """
    root = tmp_path_factory.mktemp("backfill")
    users = [{"user_id": f"u{n}", "profile": f"Guest number {n}."} for n in range(NUM_USERS)]
    garden = "Quiet, with a garden."
    items = [
        {"item_id": f"i{n}", "title": f"Place {n}", "profile": garden} for n in range(NUM_ITEMS - 1)
    ]
    items.append({"item_id": "wordy", "title": "Wordy", "profile": "garden " * 400})
    seen = [(user, (user + step) % (NUM_ITEMS - 1)) for user in range(12) for step in range(3)]
    explained = pair_rows((0, 4), explanation="Quiet.", split="test")
    tables = {"users": users, "items": items, "interactions": pair_rows(*seen, split="train")}
    dataset = make_dataset(root, **tables, explanations=explained)
    graph = save_random_graph(root / "graph", NUM_USERS, NUM_ITEMS, dataset).fingerprint
    make_adapter(root / "adapter", graph, model_fingerprint(save_toy_model(root / "llm")))
    return root


@pytest.fixture(scope="session")
def explainer(workspace):
    """The workspace's explainer with its own engine; tests must not change it."""
    return load_explainer(Runs(workspace, workspace).config(), "cpu")


@pytest.fixture
def runs(workspace, tmp_path):
    """Backfills over `workspace`, with output in the test's own folder."""
    return Runs(workspace, tmp_path)


class ScriptedEngine:
    """Writes the given texts, starting with the last prompt, and refuses the prompts of None."""

    def __init__(self, pairs: PairPrompts, texts: Sequence[str | None]):
        encode = pairs.builder.encode_explanation
        self._ids = [None if text is None else encode(text)[:-1] for text in texts]
        self.prompts: list[list[int]] = []

    def complete(self, requests: Requests, again: Again) -> Iterator[Completion]:
        self.prompts = [list(prompt) for prompt, _ in requests]
        for index in reversed(range(len(requests))):
            if (ids := self._ids[index]) is None:
                failure = Failure("over_memory_budget", "needs 9 GiB")
                completion = Completion(index, [], "failed", failure)
            else:
                completion = Completion(index, ids, "length" if index == 0 else "stop")
            assert again(completion) is None
            yield completion


@pytest.fixture
def scripted(explainer):
    """Return a function that makes an explainer whose engine writes the given texts."""

    def make(*texts: str | None) -> Explainer:
        engine = ScriptedEngine(explainer.pairs, texts)
        return replace(explainer, engine=engine, model_fingerprint="f" * 16)

    return make
