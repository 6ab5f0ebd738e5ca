"""Generation side by side: `python -m benchmarks.generate run WORKSPACE`, from the root.

Each contestant runs in a process of its own on the same weights, prompts, dtype and threads, and
texts are greedy and of one length. The last column is pairs a CPU second by those of `loop`.

\b
  loop            as the public code generates: `generate`, one pair at a time
  static-8, -32, -128
                  `generate` on left-padded batches of similar length
  continuous      transformers' own continuous batching, paged
  ours            the engine of `xrec backfill`
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
import typer
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from benchmarks.processes import measured
from benchmarks.report import (
    BENCHMARKS,
    LLM,
    SMOLLM2,
    Contestants,
    Device,
    Dtype,
    MaxNewTokens,
    Output,
    Record,
    Rounds,
    Threads,
    command_line,
    explaining,
    known,
    peak_gib,
    summary,
    take_turns,
    write_tables,
)
from xrec.adapter.pairs import Pair
from xrec.config import DecodingConfig, EngineConfig, LLMConfig
from xrec.generate.builtin.engine import load_engine
from xrec.generate.engine import text_params
from xrec.generate.explainer import Explainer
from xrec.text.writers import load_explainer

app = command_line(__doc__)

LOOP, RATE = "loop", "pairs/CPU s"
_ENGINE = EngineConfig(max_rows=128, kv_cache_gib=4.0)
Texts = Iterator[tuple[int, list[int]]]
"""Each prompt's index and generated ids; the work is done while they are taken."""


@dataclass(frozen=True)
class Contest:
    """What is the same for all contestants; all texts have `max_new_tokens`."""

    workspace: str
    llm: str
    dtype: Literal["float32", "bfloat16"]
    threads: int
    num_pairs: int
    items_per_user: int
    max_new_tokens: int
    device: Literal["auto", "cuda", "cpu"] = "cpu"


@dataclass(frozen=True, eq=False)
class Setup:
    """A contest's parts in this process."""

    contest: Contest
    model: PreTrainedModel
    prompts: list[list[int]]

    def generation_config(self) -> GenerationConfig:
        """Greedy decoding to the contest's length, without an end token."""
        length = self.contest.max_new_tokens
        return GenerationConfig(max_new_tokens=length, do_sample=False, pad_token_id=0)


def prepare(contest: Contest) -> Setup:
    """Load the workspace's artifacts and the language model, and build the prompts."""
    torch.set_num_threads(contest.threads)
    llm = LLMConfig(model=contest.llm, dtype=contest.dtype)
    explainer = load_explainer(explaining(contest.workspace, llm, _ENGINE), contest.device)
    model = explainer.model
    assert model is not None
    unpack_linears(model)
    model.generation_config = GenerationConfig()  # else `generate` would end texts by its own
    prompts = prompts_of(explainer, contest.num_pairs, contest.items_per_user)
    return Setup(contest, model, prompts)


def prompts_of(explainer: Explainer, num_pairs: int, items_per_user: int) -> list[list[int]]:
    """Each user with the next items, of those with explanations, or of all if there are none."""
    dataset = explainer.dataset
    explained = dataset.explained_pairs("train")
    users, items = (
        list(dict.fromkeys(explained[name].to_pylist())) or range(count)
        for name, count in (("user_index", dataset.num_users), ("item_index", dataset.num_items))
    )
    return [
        explainer.pairs.prompt(
            Pair(users[place // items_per_user % len(users)], items[place % len(items)])
        )
        for place in range(num_pairs)
    ]


def unpack_linears(model: PreTrainedModel) -> None:
    """Give linear layers that the engine changed their own product back, as `generate` has it."""
    for part in model.modules():
        vars(part).pop("forward", None)


def run_static(setup: Setup, batch_size: int) -> Texts:
    """Hugging Face's `generate`, on left-padded batches of similar length."""
    prompts = setup.prompts
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        length = max(len(prompts[index]) for index in indices)
        padding = [length - len(prompts[index]) for index in indices]
        rows = list(zip(padding, indices, strict=True))
        with torch.inference_mode():
            ids = torch.tensor([[0] * pad + prompts[index] for pad, index in rows])
            mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in padding])
            outputs = setup.model.generate(
                input_ids=ids.to(setup.model.device),
                attention_mask=mask.to(setup.model.device),
                generation_config=setup.generation_config(),
            )
        yield from zip(indices, outputs[:, length:].tolist(), strict=True)


def run_continuous(setup: Setup) -> Texts:
    """transformers' own continuous batching, with a cache large enough for all rows."""
    setup.model.set_attn_implementation("sdpa")
    outputs = setup.model.generate_batch(
        inputs=setup.prompts,
        generation_config=setup.generation_config(),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=32, num_blocks=2048, max_batch_tokens=512
        ),
    )
    for index, output in enumerate(outputs.values()):
        yield index, output.generated_tokens


def run_ours(setup: Setup) -> Texts:
    """The engine as a backfill's actor has it; its weights are packed before the time runs."""
    engine = load_engine(setup.model, [], _ENGINE)
    params = text_params(DecodingConfig(max_new_tokens=setup.contest.max_new_tokens))
    completions = engine.complete([(prompt, params) for prompt in setup.prompts])
    return ((completion.index, completion.token_ids) for completion in completions)


CONTESTANTS: dict[str, Callable[[Setup], Texts]] = {
    LOOP: partial(run_static, batch_size=1),
    **{f"static-{size}": partial(run_static, batch_size=size) for size in (8, 32, 128)},
    "continuous": run_continuous,
    "ours": run_ours,
}


@app.command()
def run(
    workspace: Annotated[str, typer.Argument(help="Folder with dataset, graph and adapter.")],
    contestant: Contestants = None,
    llm: LLM = SMOLLM2,
    num_pairs: Annotated[int, typer.Option(min=1, help="Pairs of each contestant.")] = 256,
    num_loop_pairs: Annotated[int, typer.Option(min=1, help="Pairs of `loop`.")] = 16,
    items_per_user: Annotated[int, typer.Option(min=1, help="Items of each user.")] = 4,
    max_new_tokens: MaxNewTokens = 48,
    rounds: Rounds = 2,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    threads: Threads = 1,
    output: Output = BENCHMARKS / "generate",
) -> None:
    """Measure each contestant in a process of its own, and print a table of the medians."""
    sizes = threads, num_pairs, items_per_user, max_new_tokens
    contest = Contest(workspace, llm, cast("Any", dtype), *sizes, cast("Any", device))
    shorter = replace(contest, num_pairs=num_loop_pairs)
    calls = {
        name: partial(_measure_apart, shorter if name == LOOP else contest, name)
        for name in known(contestant, list(CONTESTANTS), "contestant")
    }
    rows = take_turns("generate", calls, rounds, output)
    write_tables(output, "generate", {str(contest): summary(rows, RATE, [LOOP])})


def _measure_apart(contest: Contest, name: str) -> Record:
    return measured(["benchmarks.generate", "one", json.dumps(asdict(contest)), name])


@app.command(hidden=True)
def one(contest: str, contestant: str) -> None:
    """Run one contestant in this process; the last line is its record as JSON. `run` calls it."""
    typer.echo(json.dumps(measure_here(Contest(**json.loads(contest)), contestant)))


def measure_here(contest: Contest, contestant: str) -> Record:
    """The speed of a contestant in this process.

    Raises ValueError if texts are not as long as the contest demands.
    """
    setup = prepare(contest)
    ready = CONTESTANTS[contestant](setup)
    began, cpu = time.perf_counter(), time.process_time()
    texts = dict(ready)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    lengths = set(map(len, texts.values()))
    if lengths != {contest.max_new_tokens}:
        raise ValueError(
            f"{contestant} wrote texts of {min(lengths)} to {max(lengths)} tokens, "
            f"expected {contest.max_new_tokens}"
        )
    return {
        "pairs/s": len(texts) / seconds,
        RATE: len(texts) / cpu_seconds,
        "peak GiB": peak_gib(setup.model.device),
    }


if __name__ == "__main__":
    app()
