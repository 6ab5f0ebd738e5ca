"""How well does a language model find what reviews say, as `xrec annotate` asks it?

    python -m benchmarks.annotators MODELS REVIEWS

MODELS is a YAML file with a list of language models as `annotate.annotator.model` has them: of an
endpoint `{kind: endpoint, base_url: http://127.0.0.1:8001/v1, model: Qwen/Qwen3-8B,
api_key_variable: null}`, or of our own engine `{kind: engine, llm: {model: Qwen/Qwen3-8B}}`.
REVIEWS is a file of reviews with the columns user_id, item_id and review, of which some are taken
at even distances. Each model is asked for the aspects and the reason of each of them, by the
prompts that `xrec annotate` has. Nothing is asked twice in a run but for replies that cannot be
used; seconds have no meaning beside others' on the same server.

A reply is valid if it becomes a text. Quotes found are those that stand in the review, of all in
replies of the right form; an aspect whose quote is not found is left out before aspects are
counted.
"""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import TypeAdapter

from benchmarks.report import BENCHMARKS, Output, Record, command_line, write_tables
from xrec.annotate.annotator import Kind, PairInput, PairText, Review
from xrec.annotate.language_model.prompts import Prompts, read_prompt
from xrec.annotate.language_model.replies import (
    PairReply,
    ReplyLimits,
    is_quote,
    quote_problem,
    reply_schema,
    text_of,
)
from xrec.annotate.source import find_review_files, read_reviews
from xrec.config import (
    AnnotateConfig,
    EndpointModelConfig,
    EngineModelConfig,
    LanguageModelConfig,
    parse_config,
)
from xrec.text import Prompt, PromptFile, Reply, ask, endpoint_key, load_language_model, parse_reply

app = command_line()

_MODELS: TypeAdapter[list[LanguageModelConfig]] = TypeAdapter(list[LanguageModelConfig])
_MAX_DATA_TOKENS = 1500


def some_rows(uri: str, number: int) -> list[PairInput]:
    """Pairs with their reviews, which have a text, at even distances in the file."""
    source = {"uri": uri}
    config = parse_config(
        AnnotateConfig, {"workspace": "", "source": source, "rating_range": [0, 100]}
    )
    table = read_reviews(config, find_review_files(config)).reviews
    rows = [row for row in table.to_pylist() if row["review"]]
    step = max(1, len(rows) // number)
    names = ("user_id", "item_id", "review", "summary", "rating")
    reviews = [Review(**{name: row[name] for name in names}) for row in rows[::step][:number]]
    return [PairInput(each.user_id, each.item_id, each, None, "train") for each in reviews]


def measure(
    config: EndpointModelConfig | EngineModelConfig, rows: Sequence[PairInput], domain: str
) -> Record:
    """Ask one model about all rows."""
    is_endpoint = isinstance(config, EndpointModelConfig)
    key = endpoint_key(config, os.environ) if isinstance(config, EndpointModelConfig) else None
    model = load_language_model(config, key=key)
    limits = ReplyLimits() if is_endpoint else ReplyLimits.of_tokens(config.max_tokens)
    files: dict[Kind, PromptFile] = {"pair": read_prompt("pair", None, domain)}
    prompts = Prompts(files, limits, _MAX_DATA_TOKENS, domain, "English")
    asked = [
        Prompt(prompts.of(row), reply_schema("pair", limits), partial(quote_problem, row))
        for row in rows
    ]
    begin = time.perf_counter()
    replies = list(ask(model, asked, config))
    seconds = time.perf_counter() - begin
    name = (
        config.model if isinstance(config, EndpointModelConfig) else config.llm and config.llm.model
    )
    return {"model": name, **_figures(rows, replies, limits), "seconds": round(seconds, 1)}


def _figures(
    rows: Sequence[PairInput], replies: Sequence[Reply[Any]], limits: ReplyLimits
) -> Record:
    texts = [text_of(rows[reply.index], limits, reply.value) for reply in replies if reply.value]
    valid = [text for text in texts if isinstance(text, PairText)]
    schema = reply_schema("pair", ReplyLimits())
    read = [(rows[reply.index].review, parse_reply(reply.raw, schema)) for reply in replies]
    quoted = [
        is_quote(aspect.quote, review)
        for review, reply in read
        if isinstance(reply, PairReply)
        for aspect in reply.aspects
    ]
    return {
        "reviews": len(rows),
        "valid replies": _share(len(valid), len(rows)),
        "quotes found": _share(sum(quoted), len(quoted)),
        "aspects a review": round(sum(len(text.aspects) for text in valid) / max(1, len(valid)), 2),
        "requests": sum(reply.usage.num_requests for reply in replies),
        "tokens": sum(reply.usage.num_tokens for reply in replies),
    }


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


@app.command(help=__doc__)
def annotators(
    models: Annotated[Path, typer.Argument(help="A YAML list of language models.")],
    reviews: Annotated[str, typer.Argument(help="URI of a file of reviews.")],
    num_reviews: Annotated[int, typer.Option(min=1, help="Number of reviews.")] = 100,
    domain: Annotated[str, typer.Option(help="Example of the prompts.")] = "shop",
    output: Output = BENCHMARKS / "annotators",
) -> None:
    """Print a Markdown table with a row for each model."""
    configs = _MODELS.validate_python(yaml.safe_load(models.read_text(encoding="utf-8")))
    rows = some_rows(reviews, num_reviews)
    table = [measure(config, rows, domain) for config in configs]
    write_tables(output, "annotators", {"Annotators": table})


if __name__ == "__main__":
    app()
