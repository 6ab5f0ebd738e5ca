"""`xrec submit` to a cluster of a head and two workers, as a user runs it."""

import subprocess
from pathlib import Path
from typing import Protocol

import pytest
import torch

from cluster.record import LocalCluster
from cluster.submit import check_shared_paths
from jobs.prepare import run as prepare_dataset
from tests.cluster.program import xrec
from tests.cluster.town import SAMPLE, write_config, write_llm_and_adapter
from xrec.backfill import read_explanations
from xrec.config.annotate import AnnotateConfig
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig
from xrec.config.data import PrepareConfig
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.errors import ConfigError
from xrec.graph.artifact import embeddings_bytes, write_graph
from xrec.storage import open_location, read_manifest


class Store(Protocol):
    storage: StorageConfig
    environment: dict[str, str]

    def new_bucket(self) -> str: ...


def _config(folder: Path, workspace: str) -> Path:
    path = folder / "prepare.yaml"
    return write_config(path, {"workspace": workspace, "prepare": {"source": SAMPLE}})


def _submit(
    cluster: LocalCluster, *arguments: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    return xrec("submit", *arguments, "--address", cluster.name, **variables)


def test_submit_run_to_the_object_store_follows_the_log_and_leaves_the_artifact(
    three_nodes: LocalCluster, s3: Store, tmp_path: Path
) -> None:
    workspace = s3.new_bucket()
    done = _submit(
        three_nodes,
        "run",
        _config(tmp_path, workspace),
        "prepare.source.num_users=30",
        "--until",
        "prepare",
        **s3.environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] xrec prepare prepare.yaml" in done.stdout
    assert "Traceback" not in done.stderr
    manifest = read_manifest(open_location(f"{workspace}/dataset", s3.storage), "dataset")
    assert manifest.row_counts["users"] == 30


@pytest.mark.slow
def test_submit_backfill_runs_on_the_three_nodes(
    three_nodes: LocalCluster, s3: Store, tmp_path: Path
) -> None:
    """A backfill of artifacts in the object store. Training is submitted in test_node_loss.py."""
    workspace = s3.new_bucket()
    dataset = prepare_dataset(
        parse_config(
            PrepareConfig, {"workspace": workspace, "storage": s3.storage, "source": SAMPLE}
        )
    )
    graph = write_graph(
        open_location(f"{workspace}/graph", s3.storage),
        embeddings_bytes(torch.randn(20, 8), torch.randn(12, 8)),
        [],
        config={"model": {"embedding_dim": 8}},
        inputs={"dataset": dataset.fingerprint},
        metrics={},
    )
    (tmp_path / "llm").mkdir()
    write_llm_and_adapter(workspace, s3.storage, graph, tmp_path / "llm")
    values = {
        "workspace": workspace,
        "pairs": {"kind": "top_k", "k": 2},
        "rows_per_chunk": 14,
        "llm": {"model": f"{workspace}/llm", "cache_dir": str(tmp_path / "cache")},
        "decoding": {
            "max_new_tokens": 4,
            "text": {"max_words": None, "max_phrase_repeats": None},
        },  # a toy model writes no sentences
        "actors": {"num_actors": 2, "device": "cpu"},
    }
    done = _submit(
        three_nodes,
        "backfill",
        write_config(tmp_path / "backfill.yaml", {"backfill": values}),
        **s3.environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"explanations: {workspace}/explanations" in done.stdout
    assert "4 of 4 chunks left" in done.stdout
    explained = read_explanations(f"{workspace}/explanations", s3.storage)
    assert explained.num_rows == 40
    assert set(explained["user_id"].to_pylist()) == set(_user_ids(workspace, s3.storage))


def _user_ids(workspace: str, storage: StorageConfig) -> list[str]:
    ids: list[str] = (
        read_dataset(open_location(f"{workspace}/dataset", storage)).users["user_id"].to_pylist()
    )
    return ids


def test_submit_job_that_fails_exits_1_with_the_reason(
    three_nodes: LocalCluster, tmp_path: Path
) -> None:
    missing = tmp_path / "no-such-folder"
    config = _config(tmp_path, str(tmp_path / "workspace"))
    done = _submit(three_nodes, "prepare", config, f"source={{kind: tables, uri: {missing}}}")
    assert done.returncode == 1, done.stdout + done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert "FAILED" in error
    assert "exit code 1" in error
    assert str(missing) in error
    assert "Traceback" not in error


def test_submit_no_follow_returns_the_submission_id(
    three_nodes: LocalCluster, tmp_path: Path
) -> None:
    done = _submit(
        three_nodes, "prepare", _config(tmp_path, str(tmp_path / "workspace")), "--no-follow"
    )
    assert done.returncode == 0, done.stderr
    assert "prepare submitted as raysubmit_" in done.stderr


def test_submit_without_the_token_exits_1_and_says_so(
    three_nodes: LocalCluster, tmp_path: Path
) -> None:
    config = _config(tmp_path, str(tmp_path / "workspace"))
    done = xrec(
        "submit",
        "prepare",
        config,
        "--address",
        three_nodes.dashboard_url,
        RAY_AUTH_MODE="disabled",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_submit_to_an_address_where_nothing_listens_exits_1_and_names_it(tmp_path: Path) -> None:
    done = xrec(
        "submit",
        "prepare",
        _config(tmp_path, str(tmp_path / "workspace")),
        "--address",
        "http://127.0.0.1:9",
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_shared_paths_relative_paths_are_named_others_pass(tmp_path: Path) -> None:
    values = {
        "workspace": "s3://bucket/x",
        "source": {"kind": "tables", "uri": "raw/tables"},
        "dataset": "out",
    }
    with pytest.raises(ConfigError, match=r"uri=raw/tables, dataset=out"):
        check_shared_paths(parse_config(PrepareConfig, values))
    judges = [
        {"name": name, "model": {"kind": "endpoint", "model": "a/b"}} for name in ("one", "two")
    ]
    values = {
        "workspace": "s3://bucket/x",
        "llm": {"model": "./model"},
        "decoding": {"text": {"checks": {"unsafe_words": "words.txt"}}},
        "metrics": {"judges": judges},
        "blind_sheet": {"answers": ["anna.json"]},
    }
    with pytest.raises(
        ConfigError,
        match=r"model=\./model, unsafe_words=words\.txt, answers=anna\.json:",
    ):
        check_shared_paths(parse_config(CompareConfig, values))
    annotator = {
        "kind": "language_model",
        "model": {"kind": "endpoint", "model": "a/b"},
        "prompts": {"item": "i.txt"},
    }
    values = {
        "workspace": "s3://bucket/x",
        "source": {"kind": "reviews", "uri": "s3://bucket/reviews.csv"},
        "annotator": annotator,
    }
    with pytest.raises(ConfigError, match=r"prompts=i\.txt"):
        check_shared_paths(parse_config(AnnotateConfig, values))
    values = {
        "workspace": "s3://bucket/x",
        "source": {
            "kind": "tables",
            "uri": str(tmp_path),
            "files": {"users": "customers.csv"},  # below uri, wherever that is
        },
        "dataset": "file:///out",
    }
    check_shared_paths(parse_config(PrepareConfig, values))
