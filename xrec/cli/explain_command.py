"""`xrec explain`: one pair, printed, with what the model was given."""

from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.arguments import ConfigPath, Overrides
from xrec.cli.reporting import reporting

if TYPE_CHECKING:
    from jobs.explain import ExplainedPair
    from xrec.generate.explainer import Explanation

HELP = """One pair, explained, with what the model was given.

\b
In:   CONFIG, whose section backfill is used, but for its pairs; two ids
Out:  the explanation, with the prompt and the texts it was made from, on standard output

An id that neither the dataset nor cold_start holds is an error.

\b
Example:
  xrec explain configs/sample.yaml --user resident-17 --item place-3
"""


@reporting
def explain(
    config_path: ConfigPath,
    user_id: Annotated[
        str, typer.Option("--user", metavar="ID", help="user_id, as in the dataset.")
    ],
    item_id: Annotated[
        str, typer.Option("--item", metavar="ID", help="item_id, as in the dataset.")
    ],
    overrides: Overrides = None,
) -> None:
    """Run jobs.explain on one pair."""
    from xrec.config.backfill import BackfillConfig
    from xrec.config.project import load_config

    config = load_config(BackfillConfig, config_path, overrides or [])
    import jobs.explain

    for line in _lines(jobs.explain.run(config, user_id, item_id)):
        typer.echo(line)


def _lines(pair: "ExplainedPair") -> list[str]:
    """The pair's inputs, the prompt as the model saw it, and the explanation."""
    return [
        f"user          {pair.user_id}: {pair.texts.user_profile or '(no profile)'}",
        f"item          {pair.item_id}: {pair.texts.item_title or '(no title)'}. "
        f"{pair.texts.item_profile or '(no profile)'}",
        f"model         {pair.model_fingerprint} (language model, adapter and graph together)",
        f"prompt        {pair.explanation.num_prompt_tokens} tokens, "
        "collaborative tokens as <user N> and <item N>:",
        *(f"              | {line}" for line in pair.prompt.splitlines()),
        f"explanation   {pair.explanation.text}",
        "              (written now: a stored text of the pair may differ, as in bfloat16)",
        f"              ({pair.explanation.num_generated_tokens} tokens, "
        f"ended by {pair.explanation.finish_reason})",
        *_what_became_of_it(pair.explanation),
    ]


def _what_became_of_it(explanation: "Explanation") -> list[str]:
    """Why there is no explanation, or why it is not the text that was written first."""
    if (failure := explanation.failure) is not None:
        return [f"failed        {failure.reason}: {failure.message}"]
    if not explanation.refused:
        return []
    instead = "a plain sentence" if explanation.kind == "plain" else "the second try"
    return [f"              ({instead}: a text was refused as {explanation.refused})"]
