"""The row of vLLM in the generation benchmark, which another interpreter measures.

It runs generate_vllm.py: plain vLLM on the same prompts of text.
"""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.generate_setup import Setup
from xrec.llm.source import resolve_model

_SCRIPT = Path(__file__).with_name("generate_vllm.py")


def measure_vllm(setup: Setup, python: Path) -> dict[str, Any]:
    """Return the better of two rounds, without loading and warming up.

    vLLM ends every text at the given length and runs one thread.
    """
    contest = setup.contest
    with tempfile.TemporaryDirectory(prefix="xrec-vllm-") as folder:
        prompts, result = Path(folder) / "prompts.json", Path(folder) / "result.json"
        prompts.write_text(json.dumps(setup.prompts))
        options = ["--new-tokens", str(contest.max_new_tokens), "--dtype", contest.dtype]
        subprocess.run(
            [python, _SCRIPT, resolve_model(contest.llm), prompts, result, *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        found = json.loads(result.read_text())
    return {
        "pairs/s": round(found["pairs_per_second"], 3),
        "pairs/CPU s": round(found["pairs_per_cpu_second"], 3),
        "tokens/s": round(found["new_tokens_per_second"], 1),
        "CPU seconds": round(found["cpu_seconds"], 3),
        "peak GiB": round(found["resident_gib"], 2),
        "prefix hits": round(found["prefix_hit_share"], 3),
    }
