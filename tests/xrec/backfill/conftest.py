"""What a backfill needs, without training: a small catalogue, a random model, graph and adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from jobs.prepare import run as prepare_dataset
from xrec.adapter.artifact import AdapterConfig, write_adapter
from xrec.adapter.model import build_adapters
from xrec.config.adapter import AdapterModelConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig, SampleLLMConfig
from xrec.config.prompt import PromptConfig
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.llm.source import model_fingerprint
from xrec.sample.language_model import build_model, save_sample_model, train_tokenizer
from xrec.schemas import PAIRS
from xrec.storage import open_location

NUM_USERS, NUM_ITEMS, DIM, HIDDEN = 12, 6, 4, 32
MAX_PROMPT_TOKENS = 150
# With tied weights and no training the model repeats the prompt's last token. Without a chat
# template that is a colon, and not a line break.
PROMPT = PromptConfig(
    instruction="Why?", use_chat_template=False, max_prompt_tokens=MAX_PROMPT_TOKENS
)
MakeConfig = Callable[..., BackfillConfig]


def _write_tables(folder: Path) -> None:
    """Write users u0.., items i0.., and an item `wordy` whose profile is too long for a prompt."""
    folder.mkdir()
    users, items = range(NUM_USERS), range(NUM_ITEMS - 1)
    seen = [(user, (user + step) % len(items)) for user in users for step in range(3)]
    garden = "Quiet, with a garden."
    tables = {
        "users": [{"user_id": f"u{user}", "profile": f"Guest number {user}."} for user in users],
        "items": [
            *({"item_id": f"i{n}", "title": f"Place {n}", "profile": garden} for n in items),
            {"item_id": "wordy", "title": "Wordy", "profile": "garden " * MAX_PROMPT_TOKENS},
        ],
        "interactions": [
            {"user_id": f"u{user}", "item_id": f"i{item}", "split": "train"} for user, item in seen
        ],
        "explanations": [
            {"user_id": "u0", "item_id": "i4", "explanation": "The garden is.", "split": "test"}
        ],
    }
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def _save_llm(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    tokenizer = train_tokenizer(["A quiet place with a garden for a guest."], 300)
    config = SampleLLMConfig(hidden_size=HIDDEN, num_layers=1)
    save_sample_model(build_model(config, tokenizer), tokenizer, folder)


DECODING = {"max_new_tokens": 4, "text": {"max_words": None, "max_phrase_repeats": None}}
"""A toy model writes no sentences, so its texts are not checked."""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset, graph, adapter and language model on the local disk; tests must not change them."""
    root = tmp_path_factory.mktemp("backfill")
    _write_tables(root / "raw")
    _save_llm(root / "llm")
    source = {"kind": "tables", "uri": str(root / "raw")}
    dataset = prepare_dataset(
        parse_config(PrepareConfig, {"workspace": str(root), "source": source})
    )
    embeddings = embeddings_bytes(torch.randn(NUM_USERS, DIM), torch.randn(NUM_ITEMS, DIM))
    inputs = {"dataset": dataset.fingerprint}
    graph = write_graph(
        open_location(str(root / "graph")),
        embeddings,
        [],
        config={"model": {"embedding_dim": DIM}},
        inputs=inputs,
        metrics={},
    )
    model = AdapterModelConfig(num_experts=2)
    base_model = model_fingerprint(root / "llm")
    write_adapter(
        open_location(str(root / "adapter")),
        build_adapters(model, embedding_dim=DIM, hidden_size=HIDDEN).state_dict(),
        AdapterConfig(
            embedding_dim=DIM,
            hidden_size=HIDDEN,
            model=model,
            prompt=PROMPT,
            base_model=str(root / "llm"),
            base_model_fingerprint=base_model,
            graph_fingerprint=graph.fingerprint,
        ),
        run_config={},
        inputs={**inputs, "graph": graph.fingerprint, "base_model": base_model},
        metrics={},
        extra_files={},
    )
    return root


@pytest.fixture
def make_config(workspace: Path, tmp_path: Path) -> MakeConfig:
    """Make the config of a backfill over `workspace`, with output in the test's own folder.

    The values that are given replace the defaults.
    """

    def make(**values: Any) -> BackfillConfig:
        defaults = {
            "workspace": str(workspace),
            "explanations": str(tmp_path / "explanations"),
            "pairs": {"kind": "split", "split": "test"},
            "rows_per_chunk": 3,
            "max_failed_share": 1.0,
            "llm": {"model": str(workspace / "llm")},
            "decoding": DECODING,
            "actors": {"num_actors": 2, "device": "cpu"},
        }
        return parse_config(BackfillConfig, {**defaults, **values})

    return make


@pytest.fixture
def pairs() -> Callable[..., pa.Table]:
    """A table of pairs, given as "user item" texts."""

    def table(*texts: str) -> pa.Table:
        return pa.Table.from_pylist(
            [dict(zip(PAIRS.names, text.split(), strict=True)) for text in texts], PAIRS
        )

    return table


@pytest.fixture
def muted(tmp_path: Path) -> Path:
    """A file; while it is there, a toy engine has no text for some pairs."""
    (tmp_path / "muted").touch()
    return tmp_path / "muted"


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """The folder in which toy engines write their pairs."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"
