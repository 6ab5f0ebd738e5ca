"""What a GPU brings: `make bench-gpu`, or `python -m benchmarks.gpu`. Ten minutes on one card.

The sample's pairs and a language model of random weights, so that nothing is downloaded: of 8
billion parameters on a GPU, a toy on a CPU. Training beside Hugging Face's Trainer, texts beside
`generate` and, if it is installed, vLLM with and without injection. Of training, TFLOP/s count 4
operations a parameter and token: forward, and backward through the frozen layers. Divide by the
card's peak for its share. All tables are in gpu.md, under the card's name.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.processes import HERE
from benchmarks.report import BENCHMARKS, SMOLLM2, Output, command_line
from xrec.config import LLMConfig
from xrec.llm.model import load_tokenizer, resolve_device
from xrec.llm.source import resolve_model

app = command_line()

_TOY = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
_BILLIONS = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8}
_TOWN = ["source.num_users=200", "source.num_items=60"]


@app.command(help=__doc__)
def gpu(
    num_pairs: Annotated[int, typer.Option(min=16, help="Pairs of each contestant.")] = 256,
    toy: Annotated[bool, typer.Option(help="The toy on a GPU too.")] = False,
    output: Output = BENCHMARKS / "gpu",
) -> None:
    """Make the workspace, run the benchmarks, and join their tables."""
    on_gpu, output = resolve_device("auto").type == "cuda", output.absolute()
    llm = random_model(output / "llm", is_toy=toy or not on_gpu)
    workspace = make_workspace(output / "workspace", llm)
    common = ["--llm", str(llm), "--rounds", "1"]
    pairs, device = ["--num-pairs", str(num_pairs)], ["--device", "auto"]
    titles = {
        "train": [f"{workspace}/dataset", "--contestant", "trainer", "--contestant", "ours"],
        "generate": [str(workspace), "--contestant", "static-32", "--contestant", "ours"],
    }
    if on_gpu and importlib.util.find_spec("vllm"):
        titles["vllm_injection"] = [str(workspace)]
    for name, arguments in titles.items():
        folder = ["--output", str(output / name)]
        _run(f"benchmarks.{name}", "run", *arguments, *common, *pairs, *device, *folder)
    card = torch.cuda.get_device_name() if on_gpu else "no GPU: toy sizes, which say nothing"
    tables = "\n".join((output / name / f"{name}.md").read_text() for name in titles)
    (output / "gpu.md").write_text(f"# {card}, torch {torch.__version__}\n\n{tables}")
    typer.echo((output / "gpu.md").read_text())


def random_model(folder: Path, *, is_toy: bool) -> Path:
    """A Llama of random weights with SmolLM2's tokenizer, in bfloat16."""
    if not (folder / "config.json").exists():
        tokenizer = load_tokenizer(resolve_model(LLMConfig(model=SMOLLM2)))
        sizes = _TOY if is_toy else _BILLIONS
        with resolve_device("auto"):
            config = LlamaConfig(
                vocab_size=len(tokenizer), tie_word_embeddings=True, **_HEADS, **sizes
            )
            model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def make_workspace(folder: Path, llm: Path) -> Path:
    """Dataset, graph and an adapter after one step: it takes as much time as a trained one."""
    project = folder.with_suffix(".yaml")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "configs" / "sample.yaml", project)
    common = [str(project), f"workspace={folder}"]
    model = [f"llm.model={llm}", "llm.dtype=bfloat16"]
    _run("xrec.cli", "prepare", *common, *_TOWN)
    _run("xrec.cli", "pretrain-graph", *common, "training.num_epochs=1", "folds=0")
    steps = [
        "training.max_steps=1",
        "training.max_validation_pairs=8",
        "training.leave_out=nothing",
    ]
    _run("xrec.cli", "train-adapter", *common, *model, *steps)
    return folder


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=HERE, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")


if __name__ == "__main__":
    app()
