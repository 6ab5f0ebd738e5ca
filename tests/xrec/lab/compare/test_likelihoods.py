"""Likelihoods of references in a comparison: what is weighed, kept, and stands in the table."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

from tests.xrec.lab.compare.comparisons import ON_CPU, Work, figures
from tests.xrec.lab.compare.conftest import MakeConfig
from xrec.config.compare import CompareConfig
from xrec.generate.loading import Sources
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.identity import comparison_identity
from xrec.lab.compare.likelihoods import LIKELIHOODS, WeighingTask
from xrec.lab.compare.made import Made
from xrec.lab.compare.make import Given
from xrec.lab.compare.run import compare
from xrec.storage import Manifest, write_manifest

pytestmark = pytest.mark.usefixtures("without_plots")
CONTESTANTS = ["ours", "constant", "profile"]


class Scales:
    """Weighs without a model: NLL 2 and a gain of 0.5, 3 and 0 for constant; one pair too long."""

    def __init__(self) -> None:
        self.weighed: list[str] = []

    def weigh(
        self, task: WeighingTask, adapters: Sequence[Sources]
    ) -> Iterator[tuple[int, pa.Table]]:
        """As `WeighAll`; the last adapter first."""
        for place in reversed(range(len(adapters))):
            name = adapters[place].adapter.split("/")[-2]
            self.weighed.append(name)
            nll, gain = (3.0, 0.0) if name.startswith("constant") else (2.0, 0.5)
            rows = [
                {
                    "user_id": pair.user_id,
                    "item_id": pair.item_id,
                    "nll": nll if number else None,
                    "personalization_gain": gain if number else None,
                }
                for number, pair in enumerate(task.pairs)
            ]
            yield place, pa.Table.from_pylist(rows, LIKELIHOODS)


class WithAdapters(Work):
    """Entries with an adapter have one, of this `version`."""

    version = 0

    def make(self, given: Given, entry: Entry) -> Made:
        if entry.contestant in ("ours", "constant"):
            settings = {"version": self.version}
            write_manifest(
                entry.location / "adapter",
                "adapter",
                config=settings,
                inputs={},
                files={},
                row_counts={},
            )
        return super().make(given, entry)


def run(config: CompareConfig, scales: Scales, version: int = 0) -> Manifest:
    work = WithAdapters()
    work.version = version
    settings, inputs = comparison_identity(config, "model", ON_CPU)
    return compare(
        config,
        settings,
        inputs,
        make_texts=work.make,
        score_all=work.score,
        weigh_all=scales.weigh,
    )


def test_likelihoods_stand_in_the_table_beside_the_metrics_of_texts(
    make_config: MakeConfig,
) -> None:
    config = make_config(contestants=CONTESTANTS, likelihood=True, seeds=[0, 1])
    scales = Scales()
    run(config, scales)
    assert sorted(scales.weighed) == ["constant-0", "constant-1", "ours-0", "ours-1"]
    found = figures(config)
    assert found["ours", "nll"]["value"] == 2
    assert found["constant", "nll"]["difference"] == 1
    assert found["constant", "personalization_gain"]["difference"] == -0.5
    num_pairs = found["ours", "coverage"]["num_pairs"]
    assert found["ours", "nll"]["num_pairs"] == num_pairs - 1  # one prompt is too long
    assert ("profile", "nll") not in found
    page = config.artifact("comparison") + "/table.md"
    with open(page, encoding="utf-8") as file:
        assert "NLL, nats a token" in file.read()


def test_likelihoods_that_are_there_are_taken_and_those_of_another_adapter_made_again(
    make_config: MakeConfig,
) -> None:
    config, scales = make_config(contestants=CONTESTANTS, likelihood=True, seeds=[0]), Scales()
    manifest = run(config, scales)
    assert len(scales.weighed) == 2
    assert run(config, scales) == manifest
    assert len(scales.weighed) == 2
    run(config, scales, version=1)
    assert scales.weighed[2:] == ["constant-0", "ours-0"]


def test_likelihoods_are_not_weighed_unless_asked_for(make_config: MakeConfig) -> None:
    config, scales = make_config(contestants=CONTESTANTS, seeds=[0]), Scales()
    run(config, scales)
    assert scales.weighed == []
    assert ("ours", "nll") not in figures(config)
