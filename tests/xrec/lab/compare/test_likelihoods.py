"""Likelihoods of references in a comparison: what is weighed, kept, and stands in the table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tests.xrec.lab.compare.comparisons import Done, figures, run
from xrec.config.compare import CompareConfig
from xrec.generate.loading import Sources
from xrec.lab.compare.entries import Entry
from xrec.lab.compare.make import Inputs
from xrec.lab.compare.scores import LIKELIHOODS, Task
from xrec.lab.compare.texts import EntryTexts
from xrec.storage import Manifest, location_of, write_manifest

ENTRIES = ["ours", "constant", "profile"]


class Scales:
    """Weighs without a model: NLL 2 and a gain of 0.5, 3 and 0 for constant; one pair too long."""

    def __init__(self) -> None:
        self.weighed: list[str] = []

    def weigh(self, task: Task, adapters: Sequence[Sources]) -> Iterator[tuple[int, pa.Table]]:
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


@dataclass
class WithAdapters(Done):
    """Entries with an adapter have one, of this `version`."""

    version: int = 0

    def make(self, given: Inputs, entry: Entry) -> EntryTexts:
        if entry.name in ("ours", "constant"):
            about: dict[str, Any] = {"inputs": {}, "files": {}, "row_counts": {}}
            location, settings = entry.location / "adapter", {"version": self.version}
            write_manifest(location, "adapter", config=settings, **about)
        return super().make(given, entry)


def weighed(config: CompareConfig, scales: Scales, version: int = 0) -> Manifest:
    return run(config, WithAdapters(weigh=scales.weigh, version=version))


def test_likelihoods_stand_in_the_table_and_are_made_again_for_another_adapter_only(make_config):
    config = make_config(entries=ENTRIES, likelihood=True, seeds=[0, 1])
    scales, names = Scales(), ["constant-0", "constant-1", "ours-0", "ours-1"]
    manifest = weighed(config, scales)
    assert sorted(scales.weighed) == names
    found = figures(config)
    assert found["ours", "nll"]["value"] == 2
    assert found["constant", "nll"]["difference"] == 1
    assert found["constant", "personalization_gain"]["difference"] == -0.5
    num_pairs = found["ours", "coverage"]["num_pairs"]
    assert found["ours", "nll"]["num_pairs"] == num_pairs - 1  # one prompt is too long
    assert ("profile", "nll") not in found
    assert "NLL, nats a token" in (location_of(config, "comparison") / "table.md").read_text()
    assert weighed(config, scales).files == manifest.files
    assert sorted(scales.weighed) == names
    weighed(config, scales, version=1)
    assert sorted(scales.weighed) == sorted(names * 2)
