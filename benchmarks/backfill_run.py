"""One backfill in this process, with notes of its engine's steps; benchmarks.backfill calls it.

It runs on the xrec of be583ac too, so it uses only what both have.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrec.backfill import read
from xrec.backfill.driver import run_backfill
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import MakeExplainTask, load_task_explainer
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.decoding import DecodingConfig
from xrec.config.shared import RayConfig
from xrec.generate.engine import Completion, EngineReport
from xrec.generate.explainer import Explainer

_TEXT = "You would enjoy this quiet corner for its late hours and its garden."


@dataclass(frozen=True)
class NotingLoad:
    """Loads an actor's explainer, whose engine's steps are noted in a file for each process.

    is_empty: the engine computes nothing.
    """

    folder: str
    is_empty: bool

    def __call__(self, made: MakeExplainTask) -> Explainer:
        """See LoadExplainer."""
        explainer = load_task_explainer(made)
        if self.is_empty:
            tokens = explainer.pairs.builder.encode_explanation(_TEXT)[:-1]
            explainer.engine = EmptyEngine(tuple(tokens))  # type: ignore[assignment]
        else:
            self._note(explainer.engine)
        return explainer

    def _note(self, engine: Any) -> None:
        step = engine.core.step
        notes = (Path(self.folder) / str(os.getpid())).open("a", buffering=1)

        def noted() -> Any:
            began = time.time()
            advances = step()
            rows = len({one.request_id for one in advances})
            notes.write(json.dumps([began, time.time(), rows, time.process_time()]) + "\n")
            return advances

        engine.core.step = noted


@dataclass(frozen=True)
class EmptyEngine:
    """An engine that answers every prompt with the same text and computes nothing."""

    token_ids: tuple[int, ...]

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, is_refused: object = None
    ) -> Iterator[Completion]:
        """What the explainer of be583ac calls."""
        return self.complete(prompts)

    def complete(self, requests: Sequence[Any]) -> Iterator[Completion]:
        """A completion for each prompt."""
        return (Completion(index, list(self.token_ids), "stop") for index in range(len(requests)))

    def take_report(self) -> EngineReport:
        """Nothing was computed."""
        return EngineReport()


def main() -> None:
    """Run the backfill that the argument describes, and print its seconds as a line of JSON."""
    from cluster.connect import ensure_ray

    settings = json.loads(sys.argv[1])
    config = parse_config(BackfillConfig, settings["config"])
    with ensure_ray(RayConfig(address="local", num_cpus=2)):
        began = time.perf_counter()
        run = open_backfill(config)
        planned = time.perf_counter()
        run_backfill(config, run, NotingLoad(settings["notes"], settings["is_empty"]))
        ended = time.perf_counter()
    texts = read(config.artifact("explanations"), storage=config.storage)
    record = {
        "plan_seconds": planned - began,
        "seconds": ended - began,
        "rows": texts.count_rows(),
    }
    print(json.dumps(record))  # noqa: T201


if __name__ == "__main__":
    main()
