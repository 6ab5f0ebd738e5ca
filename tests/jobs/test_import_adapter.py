"""From the files of the public release to scored explanations, by five jobs."""

from pathlib import Path
from typing import Any

import pytest
import torch

import jobs.backfill
import jobs.evaluate
import jobs.explain
import jobs.import_adapter
import jobs.prepare
from tests.decoders import tiny_image_model
from tests.toy import HIDDEN_SIZE, save_toy_model
from tests.xrec.release.public_release import make_converter, public_forward, write_release
from xrec.adapter.artifact import TrainedAdapter
from xrec.config.adapter import ImportAdapterConfig
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.graph import read_graph
from xrec.storage import open_location

K, D = 3, 6
CONVERTERS = {
    side: make_converter(K, D, HIDDEN_SIZE, seed=seed) for seed, side in enumerate(("user", "item"))
}
USERS, ITEMS = (
    torch.randn(24, D, generator=torch.Generator().manual_seed(5)),
    torch.randn(9, D, generator=torch.Generator().manual_seed(6)),
)
# A toy model writes no sentences.
DECODING = {"max_new_tokens": 4, "text": {"max_words": None, "max_phrase_repeats": None}}


def configure(config_type: type[JobConfig], workspace: Path, **values: Any) -> Any:
    defaults: dict[type[JobConfig], dict[str, Any]] = {
        PrepareConfig: {"source": {"kind": "xrec_release", "uri": str(workspace / "release")}},
        ImportAdapterConfig: {"release": str(workspace / "release")},
        BackfillConfig: {
            "pairs": {"kind": "split", "split": "test"},
            "rows_per_chunk": 8,
            "decoding": DECODING,
            "actors": {"num_actors": 1, "device": "cpu"},
        },
        EvaluateConfig: {
            "encoder": None,
            "max_shuffled_generations": 0,
            "bootstrap_samples": 100,
            "decoding": DECODING,
            "device": "cpu",
        },
    }
    llm = {} if config_type is PrepareConfig else {"llm": {"model": str(workspace / "llm")}}
    return parse_config(
        config_type, {"workspace": str(workspace), **llm, **defaults[config_type], **values}
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    write_release(folder / "release", USERS, ITEMS, CONVERTERS)
    save_toy_model(folder / "llm")
    jobs.prepare.run(configure(PrepareConfig, folder))
    jobs.import_adapter.run(configure(ImportAdapterConfig, folder))
    return folder


def test_import_adapter_artifact_gives_the_release_outputs_for_the_release_vectors(
    workspace: Path,
) -> None:
    adapter = TrainedAdapter.from_pretrained(workspace / "adapter")
    graph = read_graph(open_location(str(workspace / "graph")))
    adapter.check_graph(graph.manifest.fingerprint)
    assert (
        adapter.config.model.injection,
        adapter.config.model.num_experts,
        adapter.config.base_model,
    ) == ("direct", K, "llm")
    for side, vectors in (("user", USERS), ("item", ITEMS)):
        table = getattr(graph, f"{side}s")
        assert torch.equal(table, vectors)
        torch.testing.assert_close(
            getattr(adapter.adapters, side)(table),
            public_forward(CONVERTERS[side], vectors),
            rtol=0,
            atol=1e-6,
        )
    assert adapter.card is not None
    assert "Imported by `xrec import-adapter`" in adapter.card
    assert (
        str(workspace)
        not in adapter.card + adapter.config.model_dump_json() + adapter.manifest.model_dump_json()
    )  # type: ignore[union-attr]


def test_import_adapter_again_is_the_same_artifact_and_another_import_is_refused(
    workspace: Path,
) -> None:
    config = configure(ImportAdapterConfig, workspace)
    there = TrainedAdapter.from_pretrained(workspace / "adapter").manifest
    assert jobs.import_adapter.run(config) == there
    for exact in (True, False):
        assert jobs.import_adapter.output(config, exact=exact).found().state == "same"
    with pytest.raises(ArtifactMismatchError, match="injection: 'direct' there, 'none' here"):
        jobs.import_adapter.run(config.model_copy(update={"injection": "none"}))


def test_import_adapter_output_hashes_the_converters_and_nothing_else(
    workspace: Path, tmp_path: Path
) -> None:
    for side in ("user", "item"):
        name = f"{side}_converter.pkl"
        (tmp_path / name).write_bytes((workspace / "release" / name).read_bytes())
    config = configure(ImportAdapterConfig, workspace, release=str(tmp_path))
    assert jobs.import_adapter.output(config).found().state == "same"
    gone = configure(ImportAdapterConfig, workspace, release=str(tmp_path / "gone"))
    assert jobs.import_adapter.output(gone, exact=False).found().state == "same"
    with pytest.raises(DataError, match=r"missing file\(s\) user_converter\.pkl"):
        jobs.import_adapter.output(gone)


def test_import_adapter_on_the_graph_that_is_there_gives_the_same_adapter(
    workspace: Path, tmp_path: Path
) -> None:
    config = configure(
        ImportAdapterConfig, workspace, import_graph=False, adapter=str(tmp_path / "adapter")
    )
    jobs.import_adapter.run(config)
    one, other = (
        TrainedAdapter.from_pretrained(tmp_path / "adapter"),
        TrainedAdapter.from_pretrained(workspace / "adapter"),
    )
    assert one.fingerprint == other.fingerprint


def test_import_adapter_for_a_model_of_text_and_images(workspace: Path, tmp_path: Path) -> None:
    tiny_image_model().save_pretrained(tmp_path / "llm")
    llm = {"model": str(tmp_path / "llm")}
    config = configure(
        ImportAdapterConfig, workspace, llm=llm, import_graph=False, adapter=str(tmp_path / "out")
    )
    jobs.import_adapter.run(config)
    assert TrainedAdapter.from_pretrained(tmp_path / "out").config.hidden_size == HIDDEN_SIZE


def test_import_adapter_is_explained_with(workspace: Path) -> None:
    explained = jobs.explain.run(configure(BackfillConfig, workspace), "3", "4")
    assert "<user 3>" in explained.prompt
    assert "<item 4>" in explained.prompt
    assert explained.explanation.num_generated_tokens > 0


@pytest.mark.usefixtures("actors_here")
def test_import_adapter_is_backfilled_and_evaluated_with(
    workspace: Path, ray_cluster: None
) -> None:
    backfilled = jobs.backfill.run(configure(BackfillConfig, workspace))
    assert (
        backfilled.inputs["adapter"]
        == TrainedAdapter.from_pretrained(workspace / "adapter").fingerprint
    )
    evaluation = jobs.evaluate.run(configure(EvaluateConfig, workspace))
    assert evaluation.row_counts["pairs"] > 0
    TrainedAdapter.from_pretrained(workspace / "adapter").save_pretrained(
        workspace / "published", evaluation=evaluation
    )
    assert (
        f"| nll_own | {evaluation.metrics['nll_own']:.4g} |"
        in (workspace / "published" / "README.md").read_text()
    )


Converters = dict[str, Any]
AS_THEY_ARE = CONVERTERS
FOR_48 = {side: make_converter(K, D, 48, seed=0) for side in ("user", "item")}
OF_MORE_NUMBERS = {side: make_converter(K, D + 1, HIDDEN_SIZE, seed=0) for side in ("user", "item")}
OF_MORE_EXPERTS = {**CONVERTERS, "item": make_converter(K + 1, D, HIDDEN_SIZE, seed=0)}
GRAPH_THERE = {"import_graph": False, "graph": "{workspace}/graph"}


@pytest.mark.parametrize(
    ("converters", "values", "error", "words"),
    [
        (FOR_48, {}, ArtifactMismatchError, "has hidden_size 32, the converters were trained for"),
        (
            OF_MORE_NUMBERS,
            {},
            ArtifactMismatchError,
            rf"user_emb\.pkl: vectors of {D} numbers, the converters take {D + 1}",
        ),
        (OF_MORE_NUMBERS, GRAPH_THERE, ArtifactMismatchError, f"vectors of {D} numbers"),
        (AS_THEY_ARE, {"import_graph": False}, ArtifactNotFoundError, "no graph artifact"),
        (
            OF_MORE_EXPERTS,
            {},
            DataError,
            r"user_converter\.pkl has \(experts, D, H\) = \(3, 6, 32\), "
            r"item_converter\.pkl \(4, 6, 32\)",
        ),
    ],
)
def test_import_adapter_for_another_model_graph_or_side_is_refused(
    workspace: Path,
    tmp_path: Path,
    converters: Converters,
    values: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    write_release(tmp_path, USERS, ITEMS, converters)
    named = {
        key: value.format(workspace=workspace) if isinstance(value, str) else value
        for key, value in values.items()
    }
    refused(workspace, tmp_path, error, words, **named)


def test_import_adapter_without_a_file_or_with_a_pointer_of_git_lfs_says_which(
    workspace: Path, tmp_path: Path
) -> None:
    write_release(tmp_path, USERS, ITEMS, CONVERTERS)
    (tmp_path / "user_emb.pkl").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:61cd\nsize 7692439\n"
    )
    refused(workspace, tmp_path, DataError, r"user_emb\.pkl: not one tensor")
    (tmp_path / "item_converter.pkl").unlink()
    refused(
        workspace, tmp_path, DataError, r"missing file\(s\) item_converter\.pkl; .*git lfs pull"
    )


def refused(
    workspace: Path, release: Path, error: type[Exception], message: str, **values: Any
) -> None:
    outputs = {name: str(release / "out" / name) for name in ("graph", "adapter")}
    config = configure(
        ImportAdapterConfig, workspace, release=str(release), **{**outputs, **values}
    )
    with pytest.raises(error, match=message):
        jobs.import_adapter.run(config)
    assert not (release / "out" / "adapter").exists()
